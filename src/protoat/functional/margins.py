"""Margins between logits that attacks raise, shape (B,)."""

from __future__ import annotations

import torch
from torch import Tensor

from protoat.errors import UserError
from protoat.functional.losses import margin
from protoat.functional.precision import at_least_float32
from protoat.types import Output


def capped_margin(output: Output, y: Tensor, kappa: float = 0.0) -> Tensor:
    """``-max(z_y - max_{j != y} z_j + kappa, 0)``: stops rising once the label is beaten by `kappa`, shape (B,).

    Args:
        output: logits of shape (B, C).
        y: (B,) labels.
        kappa: confidence, at least 0.

    Source: Carlini & Wagner 2017, f6; adversarial training papers climb it with PGD at kappa = 50.

    >>> import torch
    >>> z = Output(torch.tensor([[2.0, 1.0, 0.5, -1.0]]), torch.zeros(1, 0))
    >>> capped_margin(z, torch.tensor([0]), kappa=50)
    tensor([-51.])
    """
    return (margin(output, y) - kappa).clamp_max(0)


def difference(output: Output, y: Tensor, target: Tensor) -> Tensor:
    """``z_t - z_y``, shape (B,).

    >>> import torch
    >>> difference(Output(torch.tensor([[2.0, 1.0]]), torch.zeros(1, 0)), torch.tensor([0]), torch.tensor([1]))
    tensor([-1.])
    """
    logits = at_least_float32(output.logits)
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)


def dlr(output: Output, y: Tensor) -> Tensor:
    """Difference of logits ratio ``-(z_y - max_{j != y} z_j) / (z_(1) - z_(3))``, shape (B,), z_(k) the k-th largest.

    Scaling or shifting the logits does not change it, so a defence cannot hide behind large logits.

    Args:
        output: logits of shape (B, C), C >= 3.
        y: (B,) labels.

    Raises:
        ValueError: fewer than three classes.

    Source: Croce & Hein, ICML 2020, Eq. 6.

    >>> import torch
    >>> z = Output(torch.tensor([[2.0, 1.0, 0.5, -1.0]]), torch.zeros(1, 0))
    >>> dlr(z, torch.tensor([0]))
    tensor([-0.6667])
    """
    logits = at_least_float32(output.logits)
    if logits.shape[1] < 3:
        raise UserError(f"DLR needs at least 3 classes, the model has {logits.shape[1]}; climb the margin instead")
    top = logits.topk(3, dim=1).values
    return margin(output, y) / (top[:, 0] - top[:, 2] + 1e-12)


def dlr_targeted(output: Output, y: Tensor, target: Tensor) -> Tensor:
    """Targeted DLR ``-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2)``, shape (B,).

    Args:
        output: logits of shape (B, C), C >= 4.
        y: (B,) labels.
        target: (B,) classes to raise.

    Raises:
        ValueError: fewer than four classes.

    Source: Croce & Hein, ICML 2020, Eq. 7.

    >>> import torch
    >>> z = Output(torch.tensor([[2.0, 1.0, 0.5, -1.0]]), torch.zeros(1, 0))
    >>> dlr_targeted(z, torch.tensor([0]), torch.tensor([1]))
    tensor([-0.4444])
    """
    logits = at_least_float32(output.logits)
    if logits.shape[1] < 4:
        raise UserError(f"targeted DLR needs at least 4 classes, the model has {logits.shape[1]}; climb z_t - z_y")
    top = logits.topk(4, dim=1).values
    return difference(output, y, target) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def own_probability(output: Output, y: Tensor) -> Tensor:
    """``-p_y``, shape (B,): the term of `probability_margin` that pulls the label down.

    >>> own_probability(Output(torch.zeros(1, 4), torch.zeros(1, 0)), torch.tensor([0]))
    tensor([-0.2500])
    """
    return _wrong_probability(at_least_float32(output.logits), y) - 1


def probability_margin(output: Output, y: Tensor) -> Tensor:
    """``max_{j != y} p_j - p_y``, shape (B,), p the softmax of the logits.

    Its slope is computed from the probability of all wrong classes, and so is exact also where the label's rounds to 1.

    Source: Xie et al., 2024, "Towards million-scale adversarial robustness evaluation with stronger individual
    attacks", the probability margin loss.

    >>> z = Output(torch.tensor([[2.0, 1.0, 0.5]]).log(), torch.zeros(1, 0))
    >>> probability_margin(z, torch.tensor([0]))
    tensor([-0.2857])
    """
    logits = at_least_float32(output.logits)
    others = logits.scatter(1, y[:, None], float("-inf"))
    return _wrong_probability(logits, y) + (others.amax(1) - logits.logsumexp(1)).exp() - 1


def _wrong_probability(logits: Tensor, y: Tensor) -> Tensor:
    """``1 - p_y``, (B,), without the rounding of a difference."""
    others = logits.scatter(1, y[:, None], float("-inf"))
    return torch.sigmoid(others.logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1))
