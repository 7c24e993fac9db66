"""Norms and the geometry of their balls, cut with the pixel box [0, 1].

Images are (B, ...) and in [0, 1]. A radius or length is a number or one for each example, (B,).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from protoat.errors import UserError
from protoat.functional.batch import Radius, noise_like, per_example
from protoat.functional.hyperplane import shared_step
from protoat.functional.l1 import budget_of, largest_signs, movable, room, shrink, slide_count, spend
from protoat.functional.precision import at_least_float32
from protoat.spelling import setting


class Norm(ABC):
    """What attacks, methods and measurements ask of a norm; a subclass with a name is known everywhere by that name.

    Attributes:
        name: in records, recipes and on the command line.
        order: p of the p-norm.
        shared: all pixels share the radius, so that a move of one leaves less for the others.
        noise: distribution of the numbers that give a random direction.
        sparse: the steepest step moves few pixels, so attacks adapt how many.

    >>> norm_of("l2").distance(torch.full((1, 4), 0.5), torch.zeros(1, 4))
    tensor([1.])
    """

    name: ClassVar[str]
    order: ClassVar[float]
    shared: ClassVar[bool] = True
    noise: ClassVar[Literal["uniform", "normal"]] = "normal"
    sparse: ClassVar[bool] = False

    def check_radius(self, eps: float) -> None:
        """Raises ValueError where `eps` is no radius of this norm."""
        if not 0 < eps < float("inf"):
            raise UserError(f"{setting(eps=eps)} is not a positive {self.name.capitalize()} radius")

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Norm of ``x_adv - x`` for each example, (B,)."""
        return torch.linalg.vector_norm((x_adv - x).flatten(1), self.order, dim=1)

    @abstractmethod
    def dual(self, gradient: Tensor) -> Tensor:
        """Norm of a gradient, (B,): by how much a linear loss rises along a step of length 1."""

    @abstractmethod
    def step(self, gradient: Tensor, size: Radius, x: Tensor | None = None) -> Tensor:
        """An ascent step of length `size` along a gradient (B, ...); zero along a zero gradient.

        With `x`, where it starts, an L1 step leaves out pixels that are at their end.
        """

    @abstractmethod
    def steepest(self, gradient: Tensor, x: Tensor) -> Tensor:
        """The direction of length 1 in which a linear loss rises most, and in which `x` is not yet at its end."""

    @abstractmethod
    def onto_plane(self, x: Tensor, normal: Tensor, rise: Tensor) -> Tensor:
        """Shortest `d` with ``normal . d = rise`` and ``x + d`` in [0, 1]; all the way to the box where none is.

        The points `x` in [0, 1] and the normals are (B, D), the wanted changes of ``normal . x`` (B,), of either sign.
        """

    @abstractmethod
    def into_ball(self, delta: Tensor, eps: Radius) -> Tensor:
        """The nearest perturbation of length `eps` at most, whatever the box."""

    def project(self, x_adv: Tensor, x: Tensor, eps: Radius) -> Tensor:
        """A near legal image: inside the ball of radius `eps` around `x`, and inside [0, 1].

        Under L-inf and L1 it is the nearest. Under L2, ball then box, it is legal, as the box only shrinks distances.
        """
        return (x + self.into_ball(x_adv - x, eps)).clamp_(0, 1).to(x.dtype)

    def far_start(self, x: Tensor, radius: Radius, generator: torch.Generator | None = None) -> Tensor:
        """An image at distance `radius` from `x` in a random direction, then cut to [0, 1]."""
        noise = noise_like(x, self.noise, generator)
        length = self.distance(noise, torch.zeros_like(noise)).clamp_min(1e-12)
        return (x + noise * per_example(radius / length, noise)).clamp(0, 1)

    @abstractmethod
    def point_of_ball(self, x: Tensor, eps: Radius, generator: torch.Generator | None = None) -> Tensor:
        """A point drawn uniformly from the ball around `x`; it may lie outside [0, 1]."""

    def random_start(self, x: Tensor, eps: Radius, generator: torch.Generator | None = None) -> Tensor:
        """A legal image drawn around `x`: a `point_of_ball`, then projected."""
        return self.project(self.point_of_ball(x, eps, generator), x, eps)

    def corner(self, x: Tensor, eps: Radius, generator: torch.Generator | None = None) -> Tensor:
        """A random legal image that spends the whole budget: every pixel goes as far as the others, up or down."""
        return self.project(x + self.step(noise_like(x, "uniform", generator).sign(), eps), x, eps)

    def across(self, pixels: int) -> float:
        """Radius from which every image of the box can be reached, for images of so many pixels (all channels)."""
        return float(pixels ** (1 / self.order))

    def pixel_reach(self, eps: float) -> float:
        """By how much one pixel may move, if no other does."""
        return 1.0 if self.shared else eps

    def levels(self, eps: float) -> float | None:
        """The radius in grey levels of 8-bit images; None where it says nothing of a single pixel."""
        return None if self.shared else 255 * eps

    def text(self, eps: float) -> str:
        """A radius for people, also in grey levels where it is a whole number of them.

        >>> norm_of("linf").text(8 / 255), norm_of("l2").text(0.5)
        ('0.03137 (8/255)', '0.5')
        """
        levels = self.levels(eps)
        if levels is None or abs(levels - round(levels)) >= 1e-6:
            return f"{eps:.4g}"
        return f"{eps:.4g} ({round(levels)}/255)"


class LinfNorm(Norm):
    """The largest move of any pixel.

    >>> norm_of("linf").project(torch.tensor([[0.9]]), torch.tensor([[0.2]]), 0.1)
    tensor([[0.3000]])
    """

    name = "linf"
    order = torch.inf
    shared = False
    noise = "uniform"

    def check_radius(self, eps: float) -> None:
        if not 0 < eps <= 1:
            hint = f"; pixels are in [0, 1], so write {eps:g}/255" if eps > 1 else ""
            raise UserError(f"{setting(eps=eps)} is outside (0, 1]{hint}")

    def dual(self, gradient: Tensor) -> Tensor:
        return gradient.flatten(1).abs().sum(1)

    def step(self, gradient: Tensor, size: Radius, x: Tensor | None = None) -> Tensor:
        return gradient.sign() * per_example(size, gradient)

    def steepest(self, gradient: Tensor, x: Tensor) -> Tensor:
        return gradient.sign()

    def onto_plane(self, x: Tensor, normal: Tensor, rise: Tensor) -> Tensor:
        return shared_step(x, normal, rise, proportional=False)

    def into_ball(self, delta: Tensor, eps: Radius) -> Tensor:
        eps = per_example(eps, delta)
        return delta.clamp(-eps, eps)  # type: ignore[arg-type] # two tensors or two numbers

    def project(self, x_adv: Tensor, x: Tensor, eps: Radius) -> Tensor:
        eps = per_example(eps, x)
        return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp_(0, 1)

    def point_of_ball(self, x: Tensor, eps: Radius, generator: torch.Generator | None = None) -> Tensor:
        return x + noise_like(x, self.noise, generator) * per_example(eps, x)


class L2Norm(Norm):
    """The Euclidean length of the move.

    >>> norm_of("l2").step(torch.tensor([[3.0, -4.0]]), 0.5)
    tensor([[ 0.3000, -0.4000]])
    """

    name = "l2"
    order = 2.0

    def dual(self, gradient: Tensor) -> Tensor:
        return gradient.flatten(1).norm(dim=1)

    def step(self, gradient: Tensor, size: Radius, x: Tensor | None = None) -> Tensor:
        # Where a model is confident, gradients are so small that their squares vanish: first the largest becomes one.
        scaled = at_least_float32(gradient)
        largest = scaled.flatten(1).abs().amax(1).clamp_min(torch.finfo(scaled.dtype).tiny)
        scaled = scaled / per_example(largest, scaled)
        return (scaled / self._lengths(scaled) * per_example(size, gradient)).to(gradient.dtype)

    def steepest(self, gradient: Tensor, x: Tensor) -> Tensor:
        return gradient / per_example(self.dual(gradient).clamp_min(1e-12), gradient)

    def onto_plane(self, x: Tensor, normal: Tensor, rise: Tensor) -> Tensor:
        return shared_step(x, normal, rise, proportional=True)

    def into_ball(self, delta: Tensor, eps: Radius) -> Tensor:
        return delta * (per_example(eps, delta) / self._lengths(delta)).clamp_(max=1)

    def point_of_ball(self, x: Tensor, eps: Radius, generator: torch.Generator | None = None) -> Tensor:
        noise = noise_like(x, self.noise, generator)
        share = torch.rand(len(x), generator=generator, device=x.device).pow(1 / x[0].numel())
        return x + noise / self._lengths(noise) * per_example(share, x) * per_example(eps, x)

    @staticmethod
    def _lengths(vectors: Tensor) -> Tensor:
        """At least 1e-12, in the shape that broadcasts over examples; never in half precision."""
        dtype = torch.promote_types(vectors.dtype, torch.float32)
        lengths = torch.linalg.vector_norm(vectors.flatten(1), dim=1, dtype=dtype).clamp_min(1e-12)
        return lengths.view(-1, *[1] * (vectors.dim() - 1))


class L1Norm(Norm):
    """The sum of all moves: a budget that may be spent on few pixels.

    >>> norm_of("l1").project(torch.tensor([[0.9, 0.3]]), torch.tensor([[0.2, 0.2]]), 0.5)
    tensor([[0.7000, 0.2000]])
    """

    name = "l1"
    order = 1.0
    sparse = True

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        # A sum is more exact than a norm of order 1, and what `shrink` fills the budget by.
        return (x_adv - x).flatten(1).abs().sum(1)

    def dual(self, gradient: Tensor) -> Tensor:
        return gradient.flatten(1).abs().amax(1)

    def step(self, gradient: Tensor, size: Radius, x: Tensor | None = None) -> Tensor:
        free = (gradient if x is None else movable(gradient, x)).flatten(1)
        return largest_signs(free, slide_count(free.shape[1], size)).view_as(gradient) * per_example(size, gradient)

    def steepest(self, gradient: Tensor, x: Tensor) -> Tensor:
        free = movable(gradient, x).flatten(1)
        largest = free.abs().argmax(1, keepdim=True)
        return torch.zeros_like(free).scatter_(1, largest, free.gather(1, largest).sign()).view_as(gradient)

    def onto_plane(self, x: Tensor, normal: Tensor, rise: Tensor) -> Tensor:
        direction, price = normal * rise.sign()[:, None], normal.abs()
        return spend(price, room(direction, x), rise.abs(), price) * direction.sign()

    def into_ball(self, delta: Tensor, eps: Radius) -> Tensor:
        return self._shrunk(delta, torch.full_like(delta, torch.inf), eps)

    def project(self, x_adv: Tensor, x: Tensor, eps: Radius) -> Tensor:
        delta = x_adv - x
        moved = at_least_float32(self._shrunk(delta, room(delta, x), eps))
        x_adv = x + moved
        # Sums of many pixels stay inside only if none is rounded away from the image.
        over = (x_adv - x).abs() > moved.abs()
        return torch.where(over, torch.nextafter(x_adv, at_least_float32(x)), x_adv).clamp_(0, 1).to(x.dtype)

    def point_of_ball(self, x: Tensor, eps: Radius, generator: torch.Generator | None = None) -> Tensor:
        uniform = at_least_float32(noise_like(x, "uniform", generator))
        # Exponential moves of random sign have the same density everywhere on a sphere.
        noise = -uniform.sign() * torch.log1p(-uniform.abs().clamp_max(1 - 1e-7))
        share = torch.rand(len(x), generator=generator, device=x.device).pow(1 / x[0].numel())
        length = noise.flatten(1).abs().sum(1).clamp_min(1e-12)
        return (x + noise * per_example(share / length, x) * per_example(eps, x)).to(x.dtype)

    def corner(self, x: Tensor, eps: Radius, generator: torch.Generator | None = None) -> Tensor:
        """A random corner of ball and box: pixels in random order go to a random end until the budget is spent."""
        noise = noise_like(x, "uniform", generator)
        moved = spend(noise.abs().flatten(1), room(noise, x).flatten(1), budget_of(eps, x)).view_as(x)
        return (x + noise.sign() * moved).clamp_(0, 1)

    @staticmethod
    def _shrunk(delta: Tensor, most: Tensor, eps: Radius) -> Tensor:
        size = at_least_float32(delta.abs()).flatten(1)
        moved = shrink(size, most.to(size.dtype).flatten(1), budget_of(eps, size))
        return (delta.sign() * moved.view_as(delta)).to(delta.dtype)


NORMS: dict[str, Norm] = {kind.name: kind() for kind in Norm.__subclasses__()}


def norm_of(name: str) -> Norm:
    """The norm of a name.

    Raises:
        ValueError: an unknown name; the message has those that are known.

    >>> norm_of("l3")
    Traceback (most recent call last):
    protoat.errors.UserError: norm='l3' is unknown; write 'linf', 'l2' or 'l1'
    """
    if name not in NORMS:
        *most, last = map(repr, NORMS)
        raise UserError(f"{setting(norm=name)} is unknown; write {', '.join(most)} or {last}")
    return NORMS[name]
