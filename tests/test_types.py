"""What a model may return is the same wherever a model may stand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat import Objective, evaluate
from protoat.attacks import PGD
from protoat.data import ImageData
from protoat.evaluation.behaviour import eval_logits
from protoat.methods import PGDAT, FreeAT, Method
from protoat.models import with_embedding
from protoat.threats import Linf
from protoat.types import Output

THREAT = Linf(0.1)
X, Y = torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
DATA = ImageData((255 * X).byte(), Y, ("a", "b"))


def _gradient(model: nn.Module, method: Method) -> Tensor:
    """Of the weights, after one step."""
    next(Objective(method).losses(model, X, Y)).total.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


PLACES: dict[str, Callable[[nn.Module], Any]] = {
    "an attack": lambda model: PGD(THREAT, steps=1)(model, X, Y).x_adv,
    "PGDAT": lambda model: _gradient(model, PGDAT(THREAT, steps=1)),
    "FreeAT": lambda model: _gradient(model, FreeAT(THREAT)),
    "with_embedding": lambda model: with_embedding(model, "layer")(X).logits,
    "a lint": lambda model: eval_logits(model, X),
    "evaluate": lambda model: torch.tensor(evaluate(model, DATA, {"clean": None})["clean"].count.correct),
}


class Returning(nn.Module):
    """Wraps its logits as `wrap` says."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.layer(x))


@pytest.mark.parametrize("place", PLACES)
def test_an_object_with_logits_is_understood(place: str) -> None:
    found = []
    for wrap in (lambda logits: logits, lambda logits: SimpleNamespace(logits=logits)):
        torch.manual_seed(0)
        found.append(PLACES[place](Returning(wrap)))
    plain, wrapped = found
    assert torch.equal(plain, wrapped)


@pytest.mark.parametrize("place", PLACES)
def test_a_tuple_is_refused_in_words(place: str) -> None:
    with pytest.raises(ValueError, match="the model returned a tuple, expected logits"):
        PLACES[place](Returning(lambda logits: (logits, logits)))


def test_an_object_with_logits_has_no_embedding_to_regularise() -> None:
    objective = Objective(PGDAT(THREAT, steps=1), norm_weight=0.1)
    with pytest.raises(ValueError, match="returns logits only"):
        next(objective.losses(Returning(lambda logits: SimpleNamespace(logits=logits)), X, Y))


def test_a_model_that_returns_output_is_exported_and_comes_back(tmp_path: Path) -> None:
    model = with_embedding(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), "1", example=X)
    program = torch.export.export(model.eval(), (X,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "model.pt2")
    back = torch.export.load(tmp_path / "model.pt2").module()(X[:3])
    assert isinstance(back, Output)
    assert torch.allclose(back.embedding, model(X[:3]).embedding)
