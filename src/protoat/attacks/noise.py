"""Random search: noise in the ball and at its corners. A gradient attack that loses to it is masked."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from protoat.arguments import check_whole
from protoat.attacks.active import is_adversarial, select
from protoat.attacks.base import Attack
from protoat.attacks.mode import BatchNormMode
from protoat.attacks.problem import Problem
from protoat.threats import ThreatModel


class _RandomSearch(Attack):
    """Draws points until one succeeds; `draw` makes one point for each image of the problem."""

    def __init__(
        self,
        threat: ThreatModel,
        *,
        draws: int = 100,
        batch_size: int = 256,
        bn: BatchNormMode = "eval",
        seed: int = 0,
    ) -> None:
        super().__init__(threat, bn=bn, seed=seed)
        check_whole(draws=draws, batch_size=batch_size)
        self.draws = draws
        self.batch_size = batch_size

    @property
    def follows_gradients(self) -> bool:
        return False

    @abstractmethod
    def draw(self, problem: Problem) -> Tensor:
        """A random image of the ball around each image of the problem."""

    @torch.no_grad()
    def run(self, problem: Problem) -> Tensor:
        x_adv = problem.x.clone()
        active = torch.arange(len(x_adv), device=x_adv.device)
        left = self.draws
        while left and len(active):
            # Few active images are drawn several times in one forward, which keeps the batch full.
            copies = min(left, max(1, self.batch_size // len(active)))
            rows = active.repeat_interleave(copies)
            part = select(problem, rows)
            points = self.draw(part)
            adversarial = is_adversarial(part, problem.model(points).logits).view(-1, copies)
            first = adversarial.int().argmax(1) + copies * torch.arange(len(active), device=rows.device)
            x_adv[active] = points[first]
            active = active[~adversarial.any(1)]
            left -= copies
        return x_adv


class UniformNoise(_RandomSearch):
    """Uniform points of the ball, until one succeeds.

    Args:
        threat: norm and radius.
        draws: points tried for each image.
        batch_size: points in one forward once few images are active.
        bn: batch norm while attacking.
        seed: repeats a call when no generator is passed.

    Raises:
        ValueError: no draws, or an empty batch.

    Source: Carlini et al. 2019, "On evaluating adversarial robustness", random search as a check of gradients.

    >>> from protoat.threats import Linf
    >>> UniformNoise(Linf("8/255"), draws=1000).parameters()["draws"]
    1000
    """

    def draw(self, problem: Problem) -> Tensor:
        return self.threat.geometry.random_start(problem.x, problem.eps, problem.generator)


class CornerNoise(_RandomSearch):
    """Random corners of the ball: every pixel moves by the whole budget, up or down.

    Under L2 it is a random sign direction of length eps. Under L1 pixels go to a random end, one after the other, until
    the budget is spent.

    Args:
        threat: norm and radius.
        draws: corners tried for each image.
        batch_size: corners in one forward once few images are active.
        bn: batch norm while attacking.
        seed: repeats a call when no generator is passed.

    Raises:
        ValueError: no draws, or an empty batch.

    >>> from protoat.threats import Linf
    >>> x, y = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])
    >>> CornerNoise(Linf(0.25), draws=1).perturb(torch.nn.Flatten(), x, y).sub(x).abs()
    tensor([[[[0.2500, 0.2500]]]])
    """

    def draw(self, problem: Problem) -> Tensor:
        return self.threat.geometry.corner(problem.x, problem.eps, problem.generator)
