"""Auto-PGD against a loop over single images written from the paper, and against AutoAttack's."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import APGD, APGDT
from protoat.attacks.apgd import checkpoints
from protoat.functional.losses import margin
from protoat.functional.margins import difference, dlr, dlr_targeted
from protoat.functional.norms import NORMS, norm_of
from protoat.threats import L1, L2, Linf, ThreatModel
from protoat.types import Output
from tests.contracts.parts import Logits


def smooth(output: Output, y: Tensor) -> Tensor:
    """Cross-entropy in the precision of the logits."""
    return output.logits.logsumexp(1) - output.logits.gather(1, y[:, None]).squeeze(1)


def test_checkpoints_are_those_of_the_paper() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == [1]
    assert checkpoints(20) == [4, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]


def to_ball(point: Tensor, x: Tensor, threat: ThreatModel) -> Tensor:
    if threat.norm == "linf":
        return point.clamp(x - threat.eps, x + threat.eps).clamp(0, 1)
    move = point - x
    return (x + move * min(1.0, threat.eps / max(move.norm().item(), 1e-12))).clamp(0, 1)


def unit(slope: Tensor, threat: ThreatModel) -> Tensor:
    return slope.sign() if threat.norm == "linf" else slope / slope.norm()


def slow_apgd(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, *, threat: ThreatModel, steps: int) -> Tensor:
    """Algorithm 1 of the paper for one image, with whole histories."""

    def value(point: Tensor) -> tuple[float, Tensor, bool]:
        point = point.clone().requires_grad_()
        output = model(point)
        loss = smooth(output, y)
        (slope,) = torch.autograd.grad(loss.sum(), point)
        return loss.item(), slope, bool(output.logits.argmax() == y)

    marks = [0, *checkpoints(steps)]
    step, halved, best_at_mark = 2 * threat.eps, True, -float("inf")
    here, before = start, start
    loss, slope, right = value(here)
    losses, best = [loss], (loss, here, slope)
    best_at_mark = loss
    for k in range(1, steps + 1):
        if not right:
            return here
        z = to_ball(here + step * unit(slope, threat), x, threat)
        alpha = 1.0 if k == 1 else 0.75
        here, before = to_ball(here + alpha * (z - here) + (1 - alpha) * (here - before), x, threat), here
        loss, slope, right = value(here)
        losses.append(loss)
        if loss > best[0]:
            best = (loss, here, slope)
        if k in marks and right:
            last = marks[marks.index(k) - 1]
            rises = sum(losses[i] > losses[i - 1] for i in range(last + 1, k + 1))
            first = rises <= 0.75 * (k - last)
            second = not halved and best_at_mark >= best[0]
            halved, best_at_mark = first or second, best[0]
            if halved:
                step, here, slope = step / 2, best[1], best[2]
    return here if not right else best[1]


@pytest.mark.parametrize("threat", [Linf(0.12), L2(0.8)])
def test_batch_is_the_slow_loop_over_its_images(digits: Callable[..., Any], threat: ThreatModel) -> None:
    model, x, y = digits(count=12)
    model, x = deepcopy(model).double(), x.double()
    ours = APGD(threat, steps=40, loss=smooth, seed=5).perturb(model, x, y)
    standing = model(x).logits.argmax(1) == y
    draw, noise = torch.Generator().manual_seed(5), torch.empty_like(x[standing])
    noise = noise.uniform_(-1, 1, generator=draw) if threat.norm == "linf" else noise.normal_(generator=draw)
    same = 0
    for row, image_noise in zip(standing.nonzero().flatten(), noise, strict=True):
        size = image_noise.abs().max() if threat.norm == "linf" else image_noise.norm()
        start = (x[row] + threat.eps * image_noise / size).clamp(0, 1)[None]
        slow = slow_apgd(model, x[row][None], y[row][None], start, threat=threat, steps=40)
        same += torch.allclose(ours[row], slow[0], atol=1e-9)
    assert same == int(standing.sum()) > 8
    assert 0.2 < (model(ours).logits.argmax(1) == y).float().mean() < 0.9  # both kinds of image were compared


def slow_sparse_apgd(model: nn.Module, x: Tensor, y: Tensor, noise: Tensor, *, eps: float, steps: int) -> Tensor:
    """APGD-L1 of "Mind the box" for one image, in three balls, with numbers in place of tensors where it can."""

    def value(point: Tensor) -> tuple[float, Tensor, bool]:
        point = point.clone().requires_grad_()
        output = model(point)
        (slope,) = torch.autograd.grad(smooth(output, y).sum(), point)
        return smooth(output, y).item(), slope, bool(output.logits.argmax() == y)

    def pixels(point: Tensor) -> int:
        return int((point != x).sum())

    best = x + noise
    for factor, count in ((3, int(0.3 * steps)), (2, int(0.3 * steps)), (1, steps - 2 * int(0.3 * steps))):
        radius, every = factor * eps, max(int(0.04 * count), 1)
        here = norm_of("l1").project(best, x, radius)
        loss, slope, right = value(here)
        best, best_loss, best_slope = here, loss, slope
        spread, step = pixels(here), radius
        for k in range(1, count + 1):
            if factor == 1 and not right:
                return here
            size = slope.abs().flatten().sort(descending=True).values
            kept = slope.sign() * (slope.abs() >= size[max(math.ceil(spread / 1.5), 1) - 1])
            here = norm_of("l1").project(here + step * kept / kept.abs().sum(), x, radius)
            loss, slope, right = value(here)
            if loss > best_loss:
                best, best_loss, best_slope = here, loss, slope
            if k % every == 0 and (right or factor > 1):
                now = pixels(best)
                if now < 0.95 * spread:
                    step, here, slope = radius, best, best_slope
                else:
                    step = max(step / 1.5, radius / 10)
                spread = now
        if factor == 1 and not right:
            return here
    return best


def test_sparse_batch_is_the_slow_loop_over_its_images(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=12)
    model, x = deepcopy(model).double(), x.double()
    ours = APGD(L1(1.5), steps=50, loss=smooth, seed=5).perturb(model, x, y)
    standing = model(x).logits.argmax(1) == y
    noise = torch.empty_like(x[standing]).normal_(generator=torch.Generator().manual_seed(5))
    same = 0
    for row, image_noise in zip(standing.nonzero().flatten(), noise, strict=True):
        slow = slow_sparse_apgd(model, x[row][None], y[row][None], image_noise[None], eps=1.5, steps=50)
        same += torch.allclose(ours[row], slow[0], atol=1e-6)
    assert same == int(standing.sum()) > 8
    assert 0.1 < (model(ours).logits.argmax(1) == y).float().mean() < 0.9


@pytest.mark.parametrize("loss", [dlr, margin, smooth])
def test_more_steps_break_more(digits: Callable[..., Any], loss: Any) -> None:
    model, x, y = digits(count=100)
    short, long = (APGD(Linf(0.13), steps=steps, loss=loss)(model, x, y).correct.sum() for steps in (1, 50))
    assert long < short


@pytest.mark.parametrize(("threat", "norm"), [(Linf(0.12), "Linf"), (L2(0.7), "L2"), (L1(2), "L1")])
def test_autoattack_s_own_versions_find_no_more(digits: Callable[..., Any], threat: ThreatModel, norm: str) -> None:
    theirs = pytest.importorskip("pyautoattack.autopgd_base")
    model, x, y = digits(count=100)
    common = {"norm": norm, "eps": threat.eps, "n_iter": 30, "n_restarts": 1, "seed": 0, "logger": logging.getLogger()}
    common["use_largereps"] = norm == "L1"
    pairs = [
        (APGD(threat, steps=30), theirs.APGDAttack(Logits(model), loss="ce", **common)),
        (APGD(threat, steps=30, loss=dlr), theirs.APGDAttack(Logits(model), loss="dlr", **common)),
        (APGDT(threat, steps=30), theirs.APGDAttack_targeted(Logits(model), n_target_classes=9, **common)),
    ]
    for ours, other in pairs:
        left = (model(other.perturb(x, y)).logits.argmax(1) == y).sum()
        assert abs(int(ours(model, x, y).correct.sum() - left)) <= 2


def test_images_that_fall_leave_the_batch(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=32)
    sizes: list[int] = []
    handle = model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    left = int(APGD(Linf(0.12), steps=20)(model, x, y).correct.sum())
    handle.remove()
    inside = sizes[3:-2]  # without the look at the model, the clean images and the two judgements
    assert inside == sorted(inside, reverse=True)
    assert inside[-1] == left < inside[0]


@pytest.mark.parametrize(("classes", "score"), [(2, difference), (3, difference), (4, dlr_targeted), (7, dlr_targeted)])
def test_few_classes_run_to_the_end(digits: Callable[..., Any], classes: int, score: Any, monkeypatch: Any) -> None:
    used = []
    for loss in (difference, dlr_targeted):
        monkeypatch.setattr(
            f"protoat.attacks.apgd.{loss.__name__}", lambda *args, loss=loss: used.append(loss) or loss(*args)
        )
    model, x, y = digits(classes=classes, count=40)
    correct = APGDT(Linf(0.2), steps=10)(model, x, y).correct
    assert set(used) == {score}
    assert correct.sum() <= APGD(Linf(0.2), steps=10)(model, x, y).correct.sum() + 1


def test_dlr_refuses_two_classes_in_one_line(digits: Callable[..., Any]) -> None:
    model, x, y = digits(classes=2)
    with pytest.raises(ValueError, match="DLR needs at least 3 classes, the model has 2"):
        APGD(Linf(0.1), loss=dlr)(model, x, y)


@pytest.mark.parametrize("attack", [APGD, APGDT])
def test_given_targets_are_reached(digits: Callable[..., Any], attack: Callable[..., Any]) -> None:
    model, x, y = digits(count=32)
    targets = (y + 1) % 10
    result = attack(Linf(0.4), steps=20)(model, x, y, targets=targets)
    assert result.success.float().mean() > 0.9
    assert torch.equal(result.success, model(result.x_adv).logits.argmax(1) == targets)


def test_a_radius_for_each_image(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=20)
    eps = torch.linspace(0.01, 0.2, 20)
    for norm in NORMS:
        x_adv = APGD(ThreatModel(0.2, norm), steps=10).perturb(model, x, y, eps=eps)  # type: ignore[arg-type]
        assert bool((norm_of(norm).distance(x_adv, x) <= eps + 1e-6).all())  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"steps": 0}, {"restarts": 0}])
def test_mistakes_are_named(settings: dict[str, int]) -> None:
    for attack in (APGD, APGDT):
        with pytest.raises(ValueError, match="must be at least 1"):
            attack(Linf(0.1), **settings)
