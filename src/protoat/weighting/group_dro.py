"""Group DRO: raises the weight of the group with the highest loss."""

from __future__ import annotations

from torch import Tensor

from protoat.arguments import check_number
from protoat.weighting.base import Weighting


class GroupDRO(Weighting):
    """Minimises the worst group's loss by exponentiated-gradient ascent on the probabilities of groups.

    With each batch ``log q_g`` grows by ``step * (loss_g + adjustment / sqrt(n_g))``, where ``loss_g`` is the group's
    mean of the method's loss and ``n_g`` its images in the data: small groups, whose loss generalises worse, count as
    if theirs were higher.

    Args:
        step: of the ascent (authors: 0.01).
        adjustment: the paper's C (0; authors: 0 to 5, chosen on held-out images).

    Raises:
        ValueError: a `step` that is not positive, or a negative `adjustment`.

    Source: Sagawa et al., ICLR 2020, Algorithm 1 and Eq. 5, with their code. Deviation: they draw groups alike; here
    batches are drawn from all images, and losses are divided by the group's share, which has the same mean.

    >>> import torch
    >>> weighting, groups = GroupDRO(step=1.0), torch.tensor([0, 0, 1, 1])
    >>> weighting.weights(groups, torch.tensor([0.0, 0.0, 1.0, 1.0]), groups > 0, 2)
    tensor([0.5379, 0.5379, 1.4621, 1.4621])
    """

    def __init__(self, *, step: float = 0.01, adjustment: float = 0.0) -> None:
        super().__init__()
        check_number("(0, inf)", "0.01 is usual", step=step)
        check_number("[0, inf)", "0 adjusts nothing", adjustment=adjustment)
        self.step = float(step)
        self.adjustment = float(adjustment)

    def signal(self, losses: Tensor, wrong: Tensor) -> Tensor:
        return losses

    def growth(self, means: Tensor, sizes: Tensor, images: int) -> Tensor:
        return self.step * (means + self.adjustment / sizes.clamp_min(1).to(means).sqrt())
