"""JSMA against a search over all pairs, one image and one pair at a time."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import JSMA
from protoat.attacks.targets import ranked_wrong_classes
from protoat.threats import L2, Linf


def slow_jsma(model: nn.Module, x: Tensor, target: int, *, theta: float, pairs: int, eps: float) -> Tensor:
    image, free = x.clone(), {i for i, v in enumerate(x.flatten().tolist()) if (v < 1 if theta > 0 else v > 0)}
    for _ in range(pairs):
        point = image.clone().requires_grad_()
        logits = model(point).logits[0]
        if int(logits.argmax()) == target:
            break
        slopes = [torch.autograd.grad(z, point, retain_graph=True)[0].flatten() for z in logits]
        best, chosen = 0.0, None
        for p, q in combinations(sorted(free), 2):
            alpha = (slopes[target][p] + slopes[target][q]).item()
            beta = sum((s[p] + s[q]).item() for j, s in enumerate(slopes) if j != target)
            if theta < 0:
                alpha, beta = -alpha, -beta
            if alpha > 0 > beta and -alpha * beta > best:
                best, chosen = -alpha * beta, (p, q)
        if chosen is None:
            break
        for pixel in chosen:
            image.view(-1)[pixel] += theta
            free.discard(pixel)
        image = image.clamp(x - eps, x + eps).clamp(0, 1)
    return image


@pytest.mark.parametrize("theta", [0.3, -0.2])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_batch_is_the_slow_search(digits: Callable[..., Any], theta: float, classes: int) -> None:
    model, x, y = digits(classes=classes, count=3)
    model, x = deepcopy(model).double(), x.double()
    targets = (y + 1) % classes
    ours = JSMA(Linf(0.3), theta=theta, gamma=0.13).perturb(model, x, y, targets=targets)
    for row in range(len(x)):
        slow = slow_jsma(model, x[row : row + 1], int(targets[row]), theta=theta, pairs=int(0.13 * 64 / 2), eps=0.3)
        torch.testing.assert_close(ours[row : row + 1], slow)
    assert not torch.equal(ours, x)


def test_without_targets_it_goes_for_the_likeliest_wrong_class(digits: Callable[..., Any]) -> None:
    model, x, y = digits(classes=7, count=10)
    x, y = x[(right := model(x).logits.argmax(1) == y)], y[right]
    targets = ranked_wrong_classes(model(x).logits, y)[:, 0]
    attack = JSMA(Linf(0.2), gamma=0.1)
    free, aimed = attack.perturb(model, x, y), attack.perturb(model, x, y, targets=targets)
    # They part only where the label is left for a third class.
    third = model(free).logits.argmax(1) != model(aimed).logits.argmax(1)
    assert torch.equal(free[~third], aimed[~third])
    assert third.float().mean() < 0.5


def test_pairs_are_the_same_in_small_tables(digits: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = digits(count=8)
    whole = JSMA(Linf(0.3)).perturb(model, x, y)
    monkeypatch.setattr("protoat.attacks.jsma._TABLE", 64**2)
    torch.testing.assert_close(JSMA(Linf(0.3)).perturb(model, x, y), whole)


def test_few_pixels_move_and_accuracy_falls(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=60)
    result = JSMA(L2(4), gamma=0.15)(model, x, y)
    moved = ((result.x_adv - x).abs() > 1e-6).flatten(1).sum(1)
    assert int(moved.max()) <= 2 * int(0.15 * 64 / 2)
    assert result.correct.float().mean() < 0.5


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="theta=0"):
        JSMA(Linf(0.1), theta=0)
    with pytest.raises(ValueError, match="gamma=2"):
        JSMA(Linf(0.1), gamma=2)
