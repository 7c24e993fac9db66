"""Every public object says how it is built: its repr, evaluated in the namespace of protoat, gives it again."""

from __future__ import annotations

import functools
from inspect import signature
from typing import Any

import pytest
import torch
from torch import nn

import protoat as pa
from protoat.attacks import Attack
from protoat.data import Source
from protoat.data.views import RandomView
from protoat.functional.losses import margin
from protoat.methods import Method
from protoat.regularizers import Regularizer
from protoat.training import Averaging, Schedule
from protoat.training.run_state import settings
from protoat.weighting import Weighting

from . import parts

THREAT = pa.Linf(8 / 255)
NAMESPACE = {name: getattr(pa, name) for name in pa.__all__} | {"functools": functools}
# What cannot be built of a threat model alone.
ROWS: dict[type, Any] = {
    pa.AdversarialTraining: lambda: pa.AdversarialTraining(pa.MIM(THREAT, decay=0.9), ramp_epochs=2),
    pa.BiaMAT: lambda: pa.BiaMAT(THREAT, auxiliary=pa.CIFAR100(root="somewhere"), steps=3),
    pa.PrototypeClassifier: None,
    pa.StepDecay: lambda: pa.StepDecay([30, 60], factor=0.2),
    pa.SWA: lambda: pa.SWA(start_epoch=5),
    pa.Targeted: lambda: pa.Targeted(pa.PGD(THREAT, steps=3), "next"),
    pa.Transfer: None,
    pa.TorchSchedule: None,
}
OTHERS = [
    pa.L2(0.5),
    pa.Linf(0.1),
    pa.PGD(pa.L2(0.5), steps=20, step_size=0.1, random_start=False, loss=margin, seed=3),
    pa.CWPGD(THREAT, kappa=2.0, steps=7, restarts=2),
    pa.AWP(THREAT, method=functools.partial(pa.TRADES, beta=5.0, steps=3), gamma=0.005, start_epoch=9),
    pa.AWP(THREAT, method=pa.FastAT, ramp_epochs=3),
    pa.FastAT(THREAT, guard=False, random_start=False),
    pa.CFA(THREAT, class_eps=[0.01, 0.02]),
    pa.ACL(THREAT, mode="A2A", view=RandomView(flip=True)),
    pa.RoCL(pa.L2(0.5), hidden=16),
    pa.SoftTriple(2, 16, prototypes_per_class=[3, 4], merge_threshold=None),
    pa.MultiPrototypeHead(16, 2, prototypes_per_class=[3, 4], similarity="cosine"),
    pa.Objective(pa.PGDAT(THREAT, steps=7), pa.SoftTriple(10, 512, gamma=0.2), weight=0.1, norm_weight=1e-3),
    pa.Objective(pa.Standard(THREAT), norm="weights", dml_input="adv"),
    pa.Objective(pa.TRADES(THREAT), weighting=pa.GroupDRO(step=0.2, adjustment=1)),
    pa.CFOL(step=1e-3, mixing=0.75),
    pa.ImageFolder(path="pictures", image_size=32, classes=["b", "a"]),
]


def built(kind: type[Any]) -> Any:
    if kind in ROWS:
        return ROWS[kind]() if ROWS[kind] else None
    if issubclass(kind, Regularizer):
        return kind(4, 16)
    return kind(THREAT) if issubclass(kind, Attack | Method) else kind()


def described(value: Any) -> Any:
    """Everything that defines an object, for comparison."""
    if isinstance(value, Attack):
        return value.parameters()
    if isinstance(value, pa.Objective):
        own = [getattr(value, name) for name in signature(pa.Objective).parameters]
        return [described(part) if isinstance(part, Method | Regularizer | Weighting) else part for part in own]
    if isinstance(value, Method | Regularizer | Weighting):
        return settings(value)
    return {key: item for key, item in vars(value).items() if not key.startswith("_")}


def again(value: Any) -> Any:
    return eval(repr(value), dict(NAMESPACE))


KINDS = [
    kind
    for base, package in (
        (Attack, pa.attacks),
        (Method, pa.methods),
        (Method, pa.pretraining),
        (Regularizer, pa.regularizers),
        (Schedule, pa.training),
        (Averaging, pa.training),
        (Source, pa.data),
        (Weighting, pa.weighting),
    )
    for kind in parts.concrete(base, package)
    if kind.__name__ in pa.__all__
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_class_is_rebuilt(kind: type[Any]) -> None:
    value = built(kind)
    if value is None:
        pytest.skip("holds what text cannot rebuild, such as a network")
    assert type(again(value)) is kind
    assert described(again(value)) == described(value)
    assert repr(again(value)) == repr(value) and "..." not in repr(value) and "\n" not in repr(value)


@pytest.mark.parametrize("value", OTHERS, ids=lambda value: type(value).__name__)
def test_with_other_arguments(value: Any) -> None:
    assert described(again(value)) == described(value)
    assert repr(again(value)) == repr(value) and "..." not in repr(value)


def test_it_shows_every_number() -> None:
    assert repr(pa.PGD(THREAT, steps=10)) == (
        "PGD(Linf(8/255), steps=10, step_size=0.00784313725490196, random_start=True, restarts=1, "
        "loss=functional.losses.cross_entropy, bn='eval', seed=0)"
    )
    told = repr(pa.Objective(pa.FastAT(pa.L2(0.5), ramp_epochs=2), pa.SoftTriple(10, 512)))
    assert told.startswith("Objective(FastAT(L2(0.5), step_size=0.625, ") and "guard=True, guard_drop=0.2" in told
    assert (
        "SoftTriple(10, 512, prototypes_per_class=[10, 10, " in told
        and "weight=0.5, norm_weight=0.0, norm='embedding'" in told
    )


def test_a_network_is_told_in_one_line() -> None:
    told = repr(pa.Transfer(pa.FGSM(THREAT), nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), name="plain"))
    assert told.startswith("Transfer(FGSM(Linf(8/255), ") and told.endswith(", name='plain')") and "\n" not in told


def test_a_subclass_that_keeps_nothing_still_has_one() -> None:
    class Forgetful(pa.PGD):
        def __init__(self, threat: pa.ThreatModel, *, colour: str = "red", **others: Any) -> None:
            super().__init__(threat)

    assert repr(Forgetful(THREAT)) == "Forgetful(Linf(8/255), colour=...)"


def test_images_are_summarised() -> None:
    data = pa.ImageData(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 1, 0]), ("a", "b"))
    assert repr(data) == "ImageData(4 images of 1x8x8, 2 classes of 2, 2 modes)"
