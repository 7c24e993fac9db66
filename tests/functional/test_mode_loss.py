"""The cross-entropy of modes, against sums written from its equation."""

from __future__ import annotations

import math

import pytest
import torch

from protoat.functional.mode_loss import mode_cross_entropy

NONE = float("-inf")


def by_hand(scores: list[list[list[float]]], targets: list[int], smoothing: float) -> list[float]:
    """-sum over prototypes of target share x log softmax."""
    losses = []
    for example, target in zip(scores, targets, strict=True):
        flat = [score for own in example for score in own]
        there = [place for place, score in enumerate(flat) if score != NONE]
        log_sum = math.log(sum(math.exp(flat[place]) for place in there))
        share = {place: smoothing / len(there) + (1 - smoothing) * (place == target) for place in there}
        losses.append(0.0 if target < 0 else -sum(share[place] * (flat[place] - log_sum) for place in there))
    return losses


@pytest.mark.parametrize("smoothing", [0.0, 0.4])
def test_is_the_sum_by_hand(smoothing: float) -> None:
    scores = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores[:, 1, 2:] = scores[:, 2, 3] = NONE
    targets = torch.tensor([0, 5, -1, 10, 3, 4])
    scores.requires_grad_()
    losses = mode_cross_entropy(scores, targets, label_smoothing=smoothing)
    expected = by_hand(scores.tolist(), targets.tolist(), smoothing)
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64))
    losses.sum().backward()
    assert scores.grad is not None and bool(scores.grad.isfinite().all())
    assert not scores.grad[2].any() and not scores.grad[:, 1, 2:].any() and scores.grad[0].abs().min() >= 0


def test_refuses_the_place_of_no_prototype() -> None:
    scores = torch.zeros(1, 2, 2)
    scores[0, 1, 1] = NONE
    with pytest.raises(ValueError, match="prototype of a mode is not active"):
        mode_cross_entropy(scores, torch.tensor([3]))
    with pytest.raises(ValueError, match=r"expected \(B, C, K\) and \(B,\)"):
        mode_cross_entropy(scores[0], torch.tensor([3]))
