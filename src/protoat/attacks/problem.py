"""The input and the result of an attack: images, labels, targets and radius; adversarial images."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from protoat.errors import UserError
from protoat.functional.batch import Radius
from protoat.functional.images import check_images
from protoat.functional.losses import margin
from protoat.types import Output

#: What an attack raises: a model's output and labels (B,) to the loss (B,) of each image.
AttackLoss = Callable[[Output, Tensor], Tensor]


class AttackResult(NamedTuple):
    """Outcome of an attack.

    Attributes:
        x_adv: (B, ...) images inside the budget and [0, 1].
        success: (B,) bool; the label was left (untargeted) or the target was reached (targeted).
        correct: (B,) bool; the model still gives the true label, which it does not where logits say no class.

    >>> import torch
    >>> AttackResult(torch.zeros(2, 1, 8, 8), torch.tensor([True, False]), torch.tensor([False, True]))
    AttackResult(2 images: 1 attacked with success, 1 still right)
    """

    x_adv: Tensor
    success: Tensor
    correct: Tensor

    def __repr__(self) -> str:
        counts = f"{int(self.success.sum())} attacked with success, {int(self.correct.sum())} still right"
        return f"AttackResult({len(self.correct)} images: {counts})"


class Problem(NamedTuple):
    """One batch as an attack sees it.

    Attributes:
        model: images -> `Output`, in the mode the attack asked for, parameters frozen, logits and gradients made fit to
            be climbed, see `AttackedModel`.
        x: (B, ...) clean images in [0, 1].
        y: (B,) true labels.
        targets: (B,) classes to reach, or None.
        eps: radius, a number or (B,).
        generator: the only source of randomness.
    """

    model: Callable[[Tensor], Output]
    x: Tensor
    y: Tensor
    targets: Tensor | None
    eps: Radius
    generator: torch.Generator

    @property
    def goal(self) -> tuple[Tensor, float]:
        """Where a loss is climbed: the classes it is taken at, (B,), and 1 at the labels, -1 at targets."""
        return (self.y, 1.0) if self.targets is None else (self.targets, -1.0)

    def lead(self, output: Output) -> Tensor:
        """(B,) by how much the attack is ahead: positive exactly where it has succeeded."""
        classes, sign = self.goal
        return sign * margin(output, classes)


def usable(values: Tensor) -> Tensor:
    """`values` as a tensor that gradients may be taken with, also when it was made in inference mode."""
    return values.clone() if values.is_inference() else values


def checked_radius(eps: Radius, x: Tensor) -> Radius:
    """A number, or radii as the images `x` are: where they are, and as precise."""
    if isinstance(eps, Tensor) and eps.shape not in ((), (len(x),)):
        raise UserError(
            f"eps has shape {tuple(eps.shape)}, expected a number or one radius for each of {len(x)} images"
        )
    if not bool((eps >= 0).all() if isinstance(eps, Tensor) else eps >= 0):
        raise UserError(f"eps={eps} must not be negative")
    return usable(eps).to(x) if isinstance(eps, Tensor) else eps


def checked_images(x: Tensor, y: Tensor) -> Tensor:
    """`x`, detached and with rounding errors outside [0, 1] cut off."""
    for name, value in (("x", x), ("y", y)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is a {type(value).__name__}, expected a tensor")
    if y.shape != x.shape[:1] or y.is_floating_point():
        raise UserError(f"labels are {y.dtype} of shape {tuple(y.shape)}, expected integers of shape ({len(x)},)")
    inside = check_images(x)
    if x.dtype not in (torch.float32, torch.float64):
        raise UserError(
            f"images are {x.dtype}, whose rounding leaves the ball; give float32 and convert inside the model"
        )
    return inside.detach().clone()
