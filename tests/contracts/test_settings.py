"""What makes two runs the same: every argument of a part counts, and nothing that training makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from inspect import Parameter, signature
from itertools import cycle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import protoat.methods
import protoat.pretraining
import protoat.regularizers
from protoat import Objective
from protoat.attacks import PGD, Attack, AutoAttack
from protoat.data import ImageData, Origin
from protoat.data.views import RandomView
from protoat.functional.losses import cross_entropy, margin
from protoat.functional.margins import capped_margin
from protoat.methods import AWP, CFA, DAJAT, TRADES, AdversarialTraining, BiaMAT, Method
from protoat.pretraining import Contrastive
from protoat.regularizers import Regularizer
from protoat.threats import L2, Linf
from protoat.training.run_state import settings
from protoat.types import Output

from . import parts

THREAT = Linf(0.1)
PIXELS = torch.randint(256, (12, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
AUXILIARY = ImageData(PIXELS, torch.arange(12) % 3, ("a", "b", "c"))
KINDS = [*parts.concrete(Method, protoat.methods), *parts.concrete(Contrastive, protoat.pretraining)]
METRICS = parts.concrete(Regularizer, protoat.regularizers)
# Another value where the default does not suggest one.
OTHERS: dict[str, Any] = {
    "prior": "epoch",
    "step_size": 0.04,
    "bn": "train",
    "class_eps": [0.05] * 4,
    "detach_keys": True,
    "margin_same_image": 0.2,
    "method": TRADES,
    "mode": "A2A",
    "pairs_per_class": 3,
    "projection": "mlp",
    "prototype_init": "kmeans",
    "triplets": "A_Ap_B",
    "triplets_per_anchor": 3,
    "view": RandomView(flip=True),
    "width": 8,
}


def build(kind: type[Any], **options: Any) -> Any:
    if issubclass(kind, Regularizer):
        return kind(4, 16, **options)
    if kind is AdversarialTraining:
        options = {"attack": PGD(THREAT, steps=2), **options}
        return kind(options.pop("attack"), **options)
    if kind is BiaMAT:
        options = {"auxiliary": AUXILIARY, **options}
    return kind(options.pop("threat", THREAT), **options)


def another(name: str, default: Any) -> Any:
    if name in OTHERS:
        return OTHERS[name]
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    if default is cross_entropy:
        return margin
    return default / 2 if default else 0.25


def arguments() -> list[Any]:
    found = []
    for kind in (*KINDS, *METRICS):
        for name, argument in signature(kind).parameters.items():
            if argument.kind is Parameter.KEYWORD_ONLY and name != "auxiliary":
                found.append(pytest.param(kind, name, argument.default, id=f"{kind.__name__}.{name}"))
    return found


@pytest.mark.parametrize(("kind", "name", "default"), arguments())
def test_every_argument_counts(kind: type[Any], name: str, default: Any) -> None:
    assert settings(build(kind, **{name: another(name, default)})) != settings(build(kind))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_threat_model_counts(kind: type[Method]) -> None:
    options = {"attack": PGD(L2(0.1), steps=2)} if kind is AdversarialTraining else {"threat": L2(0.1)}
    assert settings(build(kind, **options)) != settings(build(kind))


def test_settings_of_the_parts_inside_count() -> None:
    wrapped = [AWP(THREAT, method=partial(TRADES, beta=beta)) for beta in (1.0, 6.0)]
    assert settings(wrapped[0])["method"]["beta"] == 1.0
    assert settings(wrapped[0]) != settings(wrapped[1])


def test_settings_of_a_loss_count() -> None:
    losses = [partial(capped_margin, kappa=kappa) for kappa in (0.0, 50.0)]
    assert settings(PGD(THREAT, loss=losses[0])) != settings(PGD(THREAT, loss=losses[1]))


class Net(nn.Module):
    embedding_dim = 16

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 5, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.features.append(nn.Linear(16, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Output:
        embedding = self.features(x)
        return Output(self.head(embedding), embedding)


WRAPPED: list[Callable[..., Method]] = [partial(AWP, method=DAJAT), partial(AWP, method=CFA, ramp_epochs=2)]
WITH_LABELS = [kind for kind in (*KINDS, *WRAPPED) if kind in WRAPPED or not issubclass(kind, Contrastive)]


# Neither knows what the other is given: each method is trained alone and with one regularizer, each regularizer once.
@pytest.mark.parametrize(
    ("kind", "metric"),
    [*((kind, None) for kind in (*KINDS, *WRAPPED)), *zip(WITH_LABELS, cycle(METRICS))],
    ids=lambda part: getattr(part, "__name__", "AWP around another" if part else "alone"),
)
def test_they_stay_the_same_in_training(kind: Any, metric: type[Regularizer] | None) -> None:
    assert len(WITH_LABELS) >= len(METRICS)
    method = kind(THREAT) if isinstance(kind, partial) else build(kind)
    torch.manual_seed(0)
    model = method.encoder(Net()) if isinstance(method, Contrastive) else Net()
    goal = Objective(method, None if metric is None else build(metric))
    goal.prepare(model)
    described = [settings(part) for part in (goal.method, goal.regularizer) if part is not None]
    optimizer = torch.optim.SGD([*model.parameters(), *goal.parameters()], lr=0.01)
    for epoch in goal.epochs(2, model, optimizer):
        for x in epoch.batches([torch.rand(8, 1, 8, 8)]):
            for terms in goal.losses(model, x, torch.arange(8) % 4, Origin(torch.arange(8))):
                optimizer.zero_grad()
                terms.total.backward()
                optimizer.step()
    assert [settings(part) for part in (goal.method, goal.regularizer) if part is not None] == described
    assert json.loads(json.dumps(described)) == described


@pytest.mark.parametrize("attack", [PGD(THREAT), AutoAttack(THREAT)], ids=["PGD", "AutoAttack"])
def test_an_attack_is_the_same_once_it_was_used(attack: Attack) -> None:
    before = settings(attack)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    attack(model, torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))
    assert settings(attack) == before
