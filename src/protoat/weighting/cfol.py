"""CFOL: weighs groups by their errors under attack, and leaves none out."""

from __future__ import annotations

from torch import Tensor

from protoat.arguments import check_number
from protoat.spelling import setting
from protoat.weighting.base import Weighting


class CFOL(Weighting):
    """Class-focused online learning: Exp3 on the errors of groups under attack, mixed with the uniform distribution.

    With each image of group g that is misclassified under attack ``log w_g`` grows by ``step / share_g``, and
    ``q = (1 - mixing) softmax(log w) + mixing / G``. So a group's weight never falls below `mixing` of that of a
    balanced loss, and the weights of two groups differ in the logarithm by ``step`` x images x difference of errors.

    Args:
        step: for each image (authors: 5e-6 for 100 epochs of 40,000 images; a short run needs a longer one).
        mixing: share of the uniform distribution, the paper's gamma.

    Raises:
        ValueError: a `step` that is not positive, or `mixing` outside [0, 1].

    Source: Pethick et al., TMLR 2023, Algorithm 1, with their code, whose form that weighs instead of drawing classes
    this is. Deviations: batches are drawn from all images, not from classes alike, so errors and weights are divided by
    the group's share; an image counts from its own batch on, not from the next.

    >>> import torch
    >>> weighting, groups = CFOL(step=0.25), torch.tensor([0, 0, 1, 1])
    >>> weighting.weights(groups, torch.zeros(4), groups > 0, 2)
    tensor([0.7689, 0.7689, 1.2311, 1.2311])
    """

    def __init__(self, *, step: float = 5e-6, mixing: float = 0.5) -> None:
        super().__init__()
        check_number("(0, inf)", "5e-6 is usual", step=step)
        check_number("[0, 1]", "0.5 is usual", mixing=mixing)
        self.step = float(step)
        self.mixing = float(mixing)

    def signal(self, losses: Tensor, wrong: Tensor) -> Tensor:
        return wrong.to(losses)

    def growth(self, means: Tensor, sizes: Tensor, images: int) -> Tensor:
        return self.step * images * means

    def unreached(self, epochs: int) -> list[str]:
        if self.sizes is None:
            return []
        images = epochs * int(self.sizes.sum())
        if self.step * images >= 1:
            return []
        return [
            f"weights of groups hardly move: one that is always wrong ends {self.step * images:.2g} above one that is "
            f"always right in the logarithm ({setting(step=self.step)}); write a step of about {20 / images:.1g}"
        ]
