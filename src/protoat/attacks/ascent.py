"""The state of Auto-PGD for each image, shared by its dense and sparse forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from protoat.attacks.active import Rows
from protoat.attacks.gradient import input_gradient
from protoat.attacks.problem import Problem
from protoat.functional.batch import leading
from protoat.types import Output

Score = Callable[[Output, Tensor, Tensor], Tensor]


@dataclass
class Ascent(Rows):
    """The state of the active images; every field has one row for each."""

    rows: Tensor
    x_adv: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    step: Tensor

    def observe(self, loss: Tensor, gradient: Tensor) -> None:
        """Takes in the loss and gradient at `x_adv`."""
        better = loss > self.best_loss
        wide = leading(better, gradient)
        self.best = torch.where(wide, self.x_adv, self.best)
        self.best_gradient = torch.where(wide, gradient, self.best_gradient)
        self.best_loss = torch.where(better, loss, self.best_loss)
        self.gradient = gradient

    def back_to_best(self, mask: Tensor) -> None:
        """Puts the images of a mask, (B,), back to their point of highest loss."""
        wide = leading(mask, self.gradient)
        self.x_adv = torch.where(wide, self.best, self.x_adv)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)


def measure(problem: Problem, x_adv: Tensor, score: Score, aims: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, its gradient and the logits, all from one forward."""
    gradient, loss, output = input_gradient(problem.model, x_adv, problem.y, lambda output, y: score(output, y, aims))
    return loss, gradient, output.logits.detach()
