"""Training with a compiled network: few graphs, whatever the size of a batch, and refusals in one line."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from protoat.attacks import PGD, DeepFool
from protoat.errors import UserError
from protoat.methods import PGDAT, TRADES, AdversarialTraining, FreeAT, Method
from protoat.objective import Objective
from protoat.threats import Linf
from protoat.training import fit
from tests.compiling import counted

THREAT = Linf(0.1)
METHODS: dict[str, Callable[[], Method]] = {
    "free": lambda: FreeAT(THREAT, replays=2),
    "pgd": lambda: PGDAT(THREAT, steps=2),
    "trades": lambda: TRADES(THREAT, steps=2),
}


def graphs(method: str, small: ModuleType, count: int, epochs: int) -> int:
    """How many are compiled in a training on batches of 40 and a smaller last one, with validation."""
    with pytest.MonkeyPatch.context() as patch:
        counter = counted(patch, "eager")
        net = small.built("pgd")[0]
        fit(
            net,
            small.loader(count),
            Objective(METHODS[method]()),
            epochs=epochs,
            optimizer=torch.optim.SGD(net.parameters(), lr=0.01),
            validation=small.loader(count),
            validation_attack=PGD(THREAT, steps=2),
            compile=True,
            progress=False,
        )
        return int(counter.frame_count)


@pytest.mark.parametrize(
    "method", ["pgd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("free", "trades"))]
)
def test_neither_the_last_batch_nor_frozen_weights_compile_anything_again(method: str, small: ModuleType) -> None:
    """A graph is a mode of the network, with or without weights that learn and images that want a gradient."""
    assert graphs(method, small, 80, 1) == graphs(method, small, 110, 2) <= 5


def test_an_attack_may_go_back_through_one_pass_several_times(
    small: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepFool asks one pass for the gradient of each class."""
    counted(monkeypatch, "aot_eager")
    net, batches = small.built("pgd")[0], small.loader(40)
    method = AdversarialTraining(DeepFool(THREAT, steps=2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    found = fit(net, batches, Objective(method), epochs=1, optimizer=optimizer, compile=True, progress=False)
    assert found.updates == 1


def test_what_the_compiler_refuses_is_one_line(small: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object) -> object:
        raise RuntimeError("no kernel for this")

    counted(monkeypatch, refusing)
    with pytest.raises(
        UserError, match=r"cannot be compiled here: .*no kernel for this; .* leave out compile"
    ) as caught:
        small.train("pgd", None, compile=True)
    assert "\n" not in str(caught.value)
