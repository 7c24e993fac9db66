"""The Carlini-Wagner L2 attack, with binary search of its constant for each image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from protoat.arguments import check_flag, check_number, check_whole
from protoat.attacks.active import select
from protoat.attacks.adam import Adam
from protoat.attacks.minimal import MinimalNormAttack
from protoat.attacks.mode import BatchNormMode
from protoat.attacks.problem import Problem
from protoat.attacks.tanh_space import from_tanh_space, to_tanh_space
from protoat.functional.gradients import gradient_of
from protoat.functional.norms import Norm, norm_of
from protoat.threats import ThreatModel


@dataclass
class _Watched(Adam):
    """Adam, with the least loss of each image so far and that at the last look whether it still falls."""

    loss: Tensor
    checked_loss: Tensor


class CarliniWagnerL2(MinimalNormAttack):
    """Minimises ``||x' - x||^2 + c * max(kappa - lead, 0)`` by Adam, with `c` found for each image by bisection.

    Args:
        threat: budget in which a success counts. The search itself always minimises the L2 distance.
        steps: Adam steps for each value of `c`.
        search_steps: values of `c` tried.
        learning_rate: of Adam, in the tanh space of the pixels.
        initial_const: first value of `c`; ten times larger after each failure until a success bounds it.
        kappa: the label must be beaten (or the target lead) by this much.
        abort_early: an image stops when its loss has not fallen by a ten-thousandth in a tenth of the steps.
        bn: batch norm while attacking.

    Raises:
        ValueError: fewer than one step, or a negative `kappa`.

    Source: Carlini & Wagner, IEEE S&P 2017 (10,000 steps there). Deviation: images stop one by one, where the reference
    stops the whole batch; pixels at 0 and 1 start 5e-4 inside, where the reference puts them at 5e-7, a place so flat
    in the tanh space that black and white pixels hardly ever move.

    >>> from protoat.threats import L2
    >>> model, x, y = torch.nn.Flatten(), torch.tensor([[[[0.6, 0.2]]]]), torch.tensor([0])
    >>> attack = CarliniWagnerL2(L2(1), steps=200, initial_const=0.1)
    >>> bool(attack.closest(model, x, y).distance < 0.285)  # the boundary is 0.4 / sqrt(2) = 0.2828 away
    True
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        steps: int = 1000,
        search_steps: int = 9,
        learning_rate: float = 0.01,
        initial_const: float = 1e-3,
        kappa: float = 0.0,
        abort_early: bool = True,
        bn: BatchNormMode = "eval",
    ) -> None:
        super().__init__(threat, bn=bn)
        check_whole(steps=steps, search_steps=search_steps)
        check_number("(0, inf)", learning_rate=learning_rate, initial_const=initial_const)
        check_number("[0, inf)", kappa=kappa)
        check_flag(abort_early=abort_early)
        self.steps = steps
        self.search_steps = search_steps
        self.learning_rate = learning_rate
        self.initial_const = initial_const
        self.kappa = float(kappa)
        self.abort_early = abort_early

    @property
    def norm(self) -> Norm:
        return norm_of("l2")

    def run(self, problem: Problem) -> Tensor:
        nearest = problem.x.clone()
        with torch.no_grad():
            done = self._won(problem.lead(problem.model(nearest)))
        reach = torch.full_like(problem.y, torch.inf, dtype=nearest.dtype)
        const = torch.full_like(reach, self.initial_const)
        low, high = torch.zeros_like(const), torch.full_like(const, torch.inf)
        for _ in range(self.search_steps):
            rows = (~done).nonzero().squeeze(1)
            if not len(rows):
                break
            part = select(problem, rows)
            x_adv, length = self._search(part, const[rows])
            found = length.isfinite()
            inside = found & (self.threat.geometry.distance(x_adv, part.x) <= part.eps)
            closer = (length < reach[rows]) | inside
            nearest[rows[closer]], reach[rows[closer]] = x_adv[closer], length[closer]
            done[rows[inside]] = True
            high[rows[found]], low[rows[~found]] = const[rows[found]], const[rows[~found]]
            const = torch.where(high.isinf(), 10 * const, (low + high) / 2)
        return nearest

    def _won(self, lead: Tensor) -> Tensor:
        return (lead > 0) & (lead >= self.kappa)

    def _search(self, problem: Problem, const: Tensor) -> tuple[Tensor, Tensor]:
        """Adam for one value of `c` each: the nearest successes on its way and their distances, inf where none."""
        nearest = problem.x.clone()
        reach = torch.full_like(const, torch.inf)
        never = torch.full_like(const, torch.inf)
        at = _Watched(to_tanh_space(problem.x), never, never)
        for step in range(1, self.steps + 1):
            w = at.w.requires_grad_()
            x_adv = from_tanh_space(w)
            squared = (x_adv - problem.x).flatten(1).square().sum(1)
            lead = problem.lead(problem.model(x_adv))
            loss = squared + const * (self.kappa - lead).clamp_min(0)
            gradient = gradient_of(loss.sum(), w)
            x_adv, length, won = x_adv.detach(), squared.detach().sqrt(), self._won(lead)
            inside = won & (self.threat.geometry.distance(x_adv, problem.x) <= problem.eps)
            closer = won & (length < reach[at.rows]) | inside
            nearest[at.rows[closer]], reach[at.rows[closer]] = x_adv[closer], length[closer]
            at.loss = torch.minimum(at.loss, loss.detach())
            at.descend(gradient, self.learning_rate, step)
            leave = inside
            if self.abort_early and step % max(self.steps // 10, 1) == 0:
                leave = leave | (at.loss > 0.9999 * at.checked_loss)
                at.checked_loss = at.loss
            if bool(leave.any()):
                at.keep(~leave)
                problem, const = select(problem, ~leave), const[~leave]
            if not len(at.rows):
                break
        return nearest, reach
