"""The outer loop of the L0 and L-inf Carlini-Wagner attacks: succeed, tighten the limit, repeat."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from protoat.arguments import check_number, check_whole
from protoat.attacks.active import among, select
from protoat.attacks.adam import Adam
from protoat.attacks.minimal import MinimalNormAttack
from protoat.attacks.mode import BatchNormMode
from protoat.attacks.problem import Problem
from protoat.attacks.tanh_space import from_tanh_space, to_tanh_space
from protoat.threats import ThreatModel


class _Solved(NamedTuple):
    """What a search under one limit found, of each image: whether it did, where in the tanh space, with which `c`."""

    found: Tensor
    w: Tensor
    const: Tensor


class Tightening(MinimalNormAttack):
    """Minimises ``cost + c * max(kappa - lead, 0)`` under a limit, which is tightened after each success.

    A subclass says what the limit is, what it costs, and how it is tightened. Each search goes on from the last
    success; `c` grows by `const_factor` until one succeeds, and is kept. An image is done when a search fails, when its
    limit cannot be tightened, or, under a budget, as soon as a success lies inside it. Defaults are those for L0.

    Args:
        threat: budget in which a success counts.
        steps: Adam steps for each value of `c`.
        learning_rate: of Adam, in the tanh space of the pixels.
        initial_const: first value of `c`.
        largest_const: a search fails where `c` reaches it.
        const_factor: by which `c` grows after a failure.
        kappa: the label must be beaten (or the target lead) by this much.
        bn: batch norm while attacking.

    Raises:
        ValueError: fewer than one step, a negative `kappa`, a rate or first `c` that is not positive, a `const_factor`
            of 1 or less.
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        steps: int = 1000,
        learning_rate: float = 0.01,
        initial_const: float = 1e-3,
        largest_const: float = 2e6,
        const_factor: float = 2.0,
        kappa: float = 0.01,
        bn: BatchNormMode = "eval",
    ) -> None:
        super().__init__(threat, bn=bn)
        check_whole(steps=steps)
        check_number("(0, inf)", learning_rate=learning_rate, initial_const=initial_const, largest_const=largest_const)
        check_number("(1, inf)", "2 doubles the constant", const_factor=const_factor)
        check_number("[0, inf)", kappa=kappa)
        self.steps = steps
        self.learning_rate = learning_rate
        self.initial_const = initial_const
        self.largest_const = largest_const
        self.const_factor = const_factor
        self.kappa = float(kappa)

    @abstractmethod
    def widest(self, x: Tensor) -> Tensor:
        """The limit that each search begins with, a value or more for each image, (B, ...)."""

    @abstractmethod
    def held(self, x_adv: Tensor, x: Tensor, limit: Tensor) -> Tensor:
        """The image that is judged, for where Adam is."""

    @abstractmethod
    def cost(self, x_adv: Tensor, x: Tensor, limit: Tensor) -> Tensor:
        """(B,) what a search makes small."""

    @abstractmethod
    def kept(self, cost: Tensor, const: Tensor) -> Tensor:
        """(B,) bool: whether an image at this cost keeps to its limit."""

    @abstractmethod
    def tighter(self, problem: Problem, x_adv: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
        """The next limit after the successes `x_adv`, and (B,) whether there is one."""

    def run(self, problem: Problem) -> Tensor:
        nearest = problem.x.clone()
        with torch.no_grad():
            rows = (~self._won(problem.lead(problem.model(nearest)))).nonzero().squeeze(1)
        problem = select(problem, rows)
        w, limit = to_tanh_space(problem.x), self.widest(problem.x)
        const = torch.full((len(rows),), self.initial_const, dtype=nearest.dtype, device=nearest.device)
        while len(rows):
            found, w, const = self._solve(problem, w, const, limit)
            problem, rows, w, const, limit = among(found, problem, rows, w, const, limit)
            if len(rows):
                nearest[rows] = x_adv = self.held(from_tanh_space(w), problem.x, limit)
                limit, more = self.tighter(problem, x_adv, limit)
                outside = ~(self.threat.geometry.distance(x_adv, problem.x) <= problem.eps)
                problem, rows, w, const, limit = among(more & outside, problem, rows, w, const, limit)
        return nearest

    def _won(self, lead: Tensor) -> Tensor:
        return (lead > 0) & (lead >= self.kappa)

    def _solve(self, problem: Problem, w: Tensor, const: Tensor, limit: Tensor) -> _Solved:
        """Adam from `w`, for larger and larger `c`, until each image succeeds under its limit or `c` is too large."""
        found, reached, last = torch.zeros_like(const, dtype=torch.bool), w.clone(), const.clone()
        at = Adam(w)
        step = 0
        while bool((on := const < self.largest_const).any()):
            at.keep(on)
            problem, const, limit = among(on, problem, const, limit)
            for _ in range(self.steps):
                leaf = at.w.requires_grad_()
                x_adv = self.held(from_tanh_space(leaf), problem.x, limit)
                lead, cost = problem.lead(problem.model(x_adv)), self.cost(x_adv, problem.x, limit)
                (gradient,) = torch.autograd.grad((cost + const * (self.kappa - lead).clamp_min(0)).sum(), leaf)
                done = self._won(lead.detach()) & self.kept(cost.detach(), const)
                if bool(done.any()):
                    rows = at.rows[done]
                    found[rows], reached[rows], last[rows] = True, leaf.detach()[done], const[done]
                step += 1
                at.descend(gradient, self.learning_rate, step)
                if bool(done.any()):
                    at.keep(~done)
                    problem, const, limit = among(~done, problem, const, limit)
                    if not len(at.rows):
                        return _Solved(found, reached, last)
            const = self.const_factor * const
        return _Solved(found, reached, last)
