"""Every number, flag and seed that a public class takes is checked where it is taken, in one line that names it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from inspect import Parameter, signature
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import protoat.attacks
import protoat.methods
import protoat.pretraining
import protoat.regularizers
from protoat import Objective
from protoat.attacks import PGD, Attack, Targeted
from protoat.attacks.adaptive import PrototypeClassifier, WithSoftTriple
from protoat.attacks.transfer import Transfer
from protoat.data import Augment, ImageData, ImageLoader, split_validation
from protoat.data.views import RandomView
from protoat.methods import AdversarialTraining, BiaMAT, Method
from protoat.models import LeNet, MeanLogits, Normalize
from protoat.pixels import Pixels
from protoat.pretraining import Contrastive
from protoat.regularizers import Regularizer
from protoat.threats import L2, Linf
from protoat.training import EMA, FAWA, LARS, SWA, Cyclic, StepDecay, WarmupCosine, parameter_groups

from . import parts

THREAT = Linf(0.1)
DATA = ImageData(torch.zeros(8, 1, 8, 8, dtype=torch.uint8), torch.arange(8) % 2, ("a", "b"))
PROTOTYPES = torch.eye(2)[:, None]
NET = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))

PARTS: list[Callable[..., Any]] = [
    *(partial(kind, THREAT) for kind in parts.concrete(Attack, protoat.attacks) if kind not in (Targeted, Transfer)),
    *(
        partial(kind, THREAT)
        for kind in parts.concrete(Method, protoat.methods)
        if kind not in (BiaMAT, AdversarialTraining)
    ),
    partial(BiaMAT, THREAT, auxiliary=DATA),
    partial(AdversarialTraining, PGD(THREAT)),
    *(partial(kind, THREAT) for kind in parts.concrete(Contrastive, protoat.pretraining)),
    *(partial(kind, 4, 16) for kind in parts.concrete(Regularizer, protoat.regularizers)),
    partial(Objective, protoat.methods.Standard(THREAT)),
    EMA,
    partial(SWA, start_epoch=1),
    FAWA,
    partial(StepDecay, [2]),
    Cyclic,
    WarmupCosine,
    partial(LARS, list(NET.parameters())),
    partial(parameter_groups, NET, Objective(protoat.methods.Standard(THREAT)), lr=0.1),
    partial(ImageLoader, DATA, batch_size=2),
    partial(split_validation, DATA, count=2, seed=0),
    Augment,
    RandomView,
    partial(MeanLogits, NET),
    partial(WithSoftTriple, PROTOTYPES),
    partial(PrototypeClassifier, NET, PROTOTYPES),
    partial(Linf, eps=0.1),
    partial(L2, eps=0.1),
]
NO_NUMBERS = {"threat", "params", "data", "prototypes", "active", "model", "objective", "count", "milestones"}


def name_of(build: Callable[..., Any]) -> str:
    return getattr(build, "func", build).__name__


def arguments(wanted: Callable[[Parameter], bool]) -> list[Any]:
    return [
        pytest.param(build, name, argument, id=f"{name_of(build)}.{name}")
        for build in PARTS
        for name, argument in signature(build).parameters.items()
        if name not in NO_NUMBERS and wanted(argument)
    ]


def says(argument: Parameter, *kinds: str) -> bool:
    return any(kind in str(argument.annotation).replace("|", " ").split() for kind in kinds)


def numeric(argument: Parameter) -> bool:
    return says(argument, "int", "float", "Pixels")


def is_refused(build: Callable[..., Any], name: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        build(**{name: value})
    message = str(caught.value)
    assert "\n" not in message
    assert name in message or repr(value) in message  # a distance is named by its value


@pytest.mark.parametrize(("build", "name", "argument"), arguments(numeric))
def test_no_number_is_taken_for_one(build: Any, name: str, argument: Parameter) -> None:
    for value in (math.nan, math.inf, -math.inf, "a", "nan", [0.1] * 4, 1j, True):
        is_refused(build, name, value)


@pytest.mark.parametrize(("build", "name", "argument"), arguments(lambda a: says(a, "int") and not says(a, "float")))
def test_only_whole_numbers_count(build: Any, name: str, argument: Parameter) -> None:
    for value in (-1, 1.5, 2.0, "2"):
        is_refused(build, name, value)


@pytest.mark.parametrize(("build", "name", "argument"), arguments(lambda a: says(a, "bool")))
def test_only_true_and_false_are_flags(build: Any, name: str, argument: Parameter) -> None:
    for value in ("false", 0, None, math.nan):
        is_refused(build, name, value)


@pytest.mark.parametrize(("build", "name", "argument"), arguments(lambda a: a.name == "seed"))
def test_seeds_fit_every_generator(build: Any, name: str, argument: Parameter) -> None:
    for value in (-1, 2**63, 2**70):
        is_refused(build, name, value)
    build(**{name: 2**63 - 1})


@pytest.mark.parametrize(("build", "name", "argument"), arguments(numeric))
def test_numbers_of_numpy_will_do(build: Any, name: str, argument: Parameter) -> None:
    default = argument.default
    if isinstance(default, bool | str) or not isinstance(default, int | float):
        pytest.skip("has no default that is a number")
    build(**{name: np.int64(default) if isinstance(default, int) else np.float64(default)})


def test_the_parts_are_there() -> None:
    """A change of annotations must not empty the tests above."""
    assert len(arguments(numeric)) > 120
    assert len(arguments(lambda a: says(a, "bool"))) > 8


@pytest.mark.parametrize("value", ["nan", "inf", "1/0", "8/nan", math.nan, math.inf, True, None, [0.1]])
def test_no_distance(value: Any) -> None:
    with pytest.raises(ValueError, match="not a pixel distance"):
        Pixels(value)


@pytest.mark.parametrize("value", [[math.nan], [0.5, 2], ["2"], [1.5], [True], "2", 3, [0.5, 0.25], [math.inf]])
def test_no_milestones(value: Any) -> None:
    with pytest.raises(ValueError, match="milestones"):
        StepDecay(value)


@pytest.mark.parametrize(("mean", "std"), [([math.nan], [1.0]), ([0.5], [math.inf]), ([0.5], ["a"])])
def test_no_normalisation(mean: Any, std: Any) -> None:
    with pytest.raises(ValueError, match=r"mean|std"):
        Normalize(mean, std)


def test_no_size_of_a_network() -> None:
    with pytest.raises(ValueError, match="num_classes"):
        LeNet(2.0)
