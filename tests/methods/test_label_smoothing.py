"""Label smoothing touches the cross-entropy that weights minimise, by its definition, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

import protoat.methods
from protoat import Objective
from protoat.data import ImageData, Origin
from protoat.functional.consistency import boosted_cross_entropy
from protoat.functional.losses import cross_entropy
from protoat.methods import AWP, CFA, DAJAT, MART, PGDAT, TRADES, AdversarialTraining, BiaMAT, Distillation, Method
from protoat.pretraining import ACL
from protoat.threats import Linf
from protoat.types import Output
from tests.contracts import parts

THREAT, CLASSES, SHARE = Linf(0.1), 4, 0.3
METHODS = [kind for kind in parts.concrete(Method, protoat.methods) if kind not in (AdversarialTraining, BiaMAT)]


def slow(logits: list[float], label: int, share: float) -> float:
    """Cross-entropy with the target that holds ``1 - share + share / C`` at the label and ``share / C`` elsewhere."""
    total = math.log(sum(math.exp(value) for value in logits))
    target = [share / len(logits) + (1 - share) * (c == label) for c in range(len(logits))]
    return sum(t * (total - value) for t, value in zip(target, logits, strict=True))


def test_it_is_the_cross_entropy_with_a_spread_target() -> None:
    logits, y = torch.randn(6, CLASSES, dtype=torch.float64), torch.arange(6) % CLASSES
    wanted = [slow(row, label, SHARE) for row, label in zip(logits.tolist(), y.tolist(), strict=True)]
    found = cross_entropy(Output(logits, logits[:, :0]), y, SHARE)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))
    sharp = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    torch.testing.assert_close(
        boosted_cross_entropy(logits, y, SHARE) - boosted_cross_entropy(logits, y), found - sharp
    )


def batch() -> tuple[Tensor, Tensor]:
    _, x, y = parts.trained(CLASSES, 12)
    return x, y


def loss(build: Callable[..., Method], share: float) -> tuple[Tensor, Tensor]:
    """The loss of one step, and how far smoothing moves the cross-entropies in it."""
    x, y = batch()
    torch.manual_seed(0)
    model, goal = parts.trained(CLASSES)[0].train(), Objective(build(THREAT), label_smoothing=share)
    goal.prepare(model)
    goal.method.at_epoch(50, 100)
    torch.manual_seed(1)
    goal.method.at_images(Origin(torch.arange(len(x))))
    goal.method.label_smoothing = share
    views = next(iter(goal.method.updates(model, x, y)))
    torch.manual_seed(1)
    running = goal.losses(model, x, y, Origin(torch.arange(len(x))))
    assert torch.equal(next(running).base.isfinite(), torch.tensor(True))
    plain = views.adv if views.clean is None else views.clean
    moved = cross_entropy(plain, y, share) - cross_entropy(plain, y)
    return goal.method.loss(views, y).detach(), moved.mean().detach()


@pytest.mark.parametrize(
    "kind", [kind for kind in METHODS if kind.__name__ not in ("AWP", "CFA", "DAJAT", "Distillation", "MART")]
)
def test_every_method_smooths_its_cross_entropy_alone(kind: type[Method]) -> None:
    sharp, _ = loss(kind, 0.0)
    smooth, moved = loss(kind, SHARE)
    torch.testing.assert_close(smooth - sharp, moved, rtol=1e-4, atol=1e-5)
    assert float(moved.abs()) > 1e-3


@pytest.mark.parametrize(
    ("build", "share_of_it"),
    [(CFA, 1.0), (partial(CFA, beta=3.0, start_epoch=90), 1 / 4), (partial(AWP, method=TRADES, start_epoch=90), 1.0)],
    ids=["CFA", "CFA with TRADES", "AWP around TRADES"],
)
def test_inside_other_methods(build: Callable[..., Method], share_of_it: float) -> None:
    sharp, _ = loss(build, 0.0)
    smooth, moved = loss(build, SHARE)
    torch.testing.assert_close(smooth - sharp, share_of_it * moved, rtol=1e-4, atol=1e-5)


def auxiliary() -> ImageData:
    pixels = torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageData(pixels, torch.arange(20) % 3, ("a", "b", "c"))


@pytest.mark.parametrize(
    "build", [partial(BiaMAT, auxiliary=auxiliary()), MART, partial(Distillation, teacher_epochs=60), DAJAT]
)
def test_those_with_several_terms_change_too(build: Callable[..., Method]) -> None:
    assert float(loss(build, SHARE)[0]) != float(loss(build, 0.0)[0])


def test_each_objective_has_its_own() -> None:
    x, y = batch()
    method = PGDAT(THREAT, steps=1)
    first, second = Objective(method, label_smoothing=SHARE), Objective(method)

    def base(goal: Objective) -> float:
        torch.manual_seed(0)
        return float(next(goal.losses(parts.trained(CLASSES)[0].train(), x, y)).base.detach())

    before = base(second)
    assert base(first) != before and base(second) == before


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_shares_outside_the_range(share: float) -> None:
    with pytest.raises(ValueError, match="label_smoothing"):
        Objective(PGDAT(THREAT), label_smoothing=share)


def test_without_labels_there_is_nothing_to_smooth() -> None:
    with pytest.raises(ValueError, match="ACL learns without labels; leave label_smoothing at 0"):
        Objective(ACL(THREAT), label_smoothing=SHARE)
