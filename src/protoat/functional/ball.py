"""Geometry of a norm ball cut with the pixel box [0, 1]. Radii may be a number or one per example, shape (B,)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from protoat.types import Norm

__all__ = ["ascent_step", "distance", "far_start", "noise_like", "point_of_ball", "project", "random_start"]

Radius = float | Tensor


def _per_example(value: Radius, like: Tensor) -> Radius:
    return value.view(-1, *[1] * (like.dim() - 1)) if isinstance(value, Tensor) and value.dim() else value


def _lengths(vectors: Tensor) -> Tensor:
    """L2 norm of each example, at least 1e-12, in the shape that broadcasts over examples; never in half precision."""
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    lengths = torch.linalg.vector_norm(vectors.flatten(1), dim=1, dtype=dtype).clamp_min(1e-12)
    return lengths.view(-1, *[1] * (vectors.dim() - 1))


def distance(x_adv: Tensor, x: Tensor, norm: Norm) -> Tensor:
    """Norm of ``x_adv - x`` for each example, shape (B,).

    >>> distance(torch.full((1, 2), 0.5), torch.zeros(1, 2), "linf")
    tensor([0.5000])
    """
    delta = (x_adv - x).flatten(1)
    return delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)


def project(x_adv: Tensor, x: Tensor, eps: Radius, norm: Norm) -> Tensor:
    """Nearest legal image: inside the ball of radius `eps` around `x`, then inside [0, 1].

    For L-inf this is the exact projection; for L2 the order ball-then-box gives a legal point (the box only shrinks
    distances to `x`, which lies in the box), not always the nearest one.

    Args:
        x_adv, x: (B, ...) images; `x` in [0, 1].
        eps: radius, a number or (B,).

    >>> project(torch.tensor([[0.9]]), torch.tensor([[0.2]]), 0.1, "linf")
    tensor([[0.3000]])
    """
    eps = _per_example(eps, x)
    if norm == "linf":
        return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp_(0, 1)
    delta = x_adv - x
    return (x + delta * (eps / _lengths(delta)).clamp_(max=1)).clamp_(0, 1).to(x.dtype)


def noise_like(x: Tensor, kind: Literal["uniform", "normal"], generator: torch.Generator | None = None) -> Tensor:
    """Random numbers in the shape of `x`, uniform in [-1, 1) or standard normal.

    They are drawn in one order whatever the memory format of `x`, so that this changes no result.

    >>> noise_like(torch.zeros(2, 3), "uniform", torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3])
    """
    noise = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return noise.uniform_(-1, 1, generator=generator) if kind == "uniform" else noise.normal_(generator=generator)


def far_start(x: Tensor, radius: Radius, norm: Norm, generator: torch.Generator | None = None) -> Tensor:
    """An image at distance `radius` from `x` in the direction of noise (uniform for L-inf), then cut to [0, 1].

    Args:
        x: (B, ...) images in [0, 1].
        radius: how far, a number or (B,).
        norm: in which the distance is measured.
        generator: of the noise; None draws from the global random state.

    >>> far_start(torch.full((1, 3), 0.5), 0.1, "linf", torch.Generator().manual_seed(0)).sub(0.5).abs().max()
    tensor(0.1000)
    """
    noise = noise_like(x, "uniform" if norm == "linf" else "normal", generator)
    length = distance(noise, torch.zeros_like(noise), norm).clamp_min(1e-12)
    return (x + noise * _per_example(radius / length, noise)).clamp(0, 1)


def point_of_ball(x: Tensor, eps: Radius, norm: Norm, generator: torch.Generator | None = None) -> Tensor:
    """A point drawn around `x`, uniform in the cube (L-inf) or in the ball (L2); it may lie outside [0, 1].

    Args:
        x: (B, ...) images in [0, 1].
        eps: radius, a number or (B,).
        norm: of the ball.
        generator: of the noise; None draws from the global random state.

    >>> bool((point_of_ball(torch.zeros(4, 3), 0.1, "linf", torch.Generator().manual_seed(0)) < 0).any())
    True
    """
    radius = _per_example(eps, x)
    if norm == "linf":
        return x + noise_like(x, "uniform", generator) * radius
    noise = noise_like(x, "normal", generator)
    share = torch.rand(len(x), generator=generator, device=x.device).pow(1 / x[0].numel())
    return x + noise / _lengths(noise) * _per_example(share, x) * radius


def random_start(x: Tensor, eps: Radius, norm: Norm, generator: torch.Generator | None = None) -> Tensor:
    """A legal image drawn around `x`: a `point_of_ball`, then cut to [0, 1].

    Args:
        x: (B, ...) images in [0, 1].
        eps: radius, a number or (B,).
        norm: of the ball.
        generator: of the noise; None draws from the global random state.

    >>> start = random_start(torch.zeros(4, 3), 0.1, "linf", torch.Generator().manual_seed(0))
    >>> bool((start >= 0).all() and (start <= 0.1).all())
    True
    """
    return project(point_of_ball(x, eps, norm, generator), x, eps, norm)


def ascent_step(gradient: Tensor, step_size: Radius, norm: Norm) -> Tensor:
    """The step of length `step_size` that raises a linear loss most: the sign (L-inf), the unit gradient (L2).

    Args:
        gradient: (B, ...) of the loss with respect to the images; an L2 step along a zero gradient is zero.
        step_size: length, a number or (B,).
        norm: in which the step has this length.

    >>> ascent_step(torch.tensor([[3.0, -4.0]]), 0.5, "l2")
    tensor([[ 0.3000, -0.4000]])
    """
    step_size = _per_example(step_size, gradient)
    if norm == "linf":
        return gradient.sign() * step_size
    # Where a model is confident, gradients are so small that their squares vanish: first the largest entry becomes one.
    wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    largest = wide.flatten(1).abs().amax(1).clamp_min(torch.finfo(wide.dtype).tiny)
    wide = wide / _per_example(largest, wide)
    return (wide / _lengths(wide) * step_size).to(gradient.dtype)
