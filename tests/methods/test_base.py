"""What every method shares."""

from __future__ import annotations

import pytest
import torch

from protoat.methods import CFA, DAJAT, FGSMAT, MART, PGDAT, TRADES, FastAT, FreeAT, Method, Standard
from protoat.methods.base import Method as Base
from protoat.threats import L2, Linf

METHODS = [Standard, FGSMAT, PGDAT, FreeAT, FastAT]


@pytest.mark.parametrize("kind", METHODS)
def test_full_strength_unless_a_ramp_is_asked_for(kind: type[Method]) -> None:
    assert kind(Linf(0.2)).eps == 0.2
    ramped = kind(Linf(0.2), ramp_epochs=4)
    radii = []
    for epoch in (0, 1, 2, 4, 9):
        ramped.at_epoch(epoch)
        radii.append(ramped.eps)
    assert radii == pytest.approx([0, 0.05, 0.1, 0.2, 0.2])
    with pytest.raises(ValueError, match="ramp_epochs=-1 must not be negative"):
        kind(Linf(0.2), ramp_epochs=-1)


@pytest.mark.parametrize("kind", METHODS)
def test_takes_the_threat_model_first(kind: type[Method]) -> None:
    assert kind(L2(0.5)).threat == L2(0.5)


@pytest.mark.parametrize("kind", [*METHODS, CFA, TRADES, MART, DAJAT])
def test_a_radius_alone_is_no_threat_model(kind: type[Method]) -> None:
    with pytest.raises(TypeError, match=r"takes a threat model, and 0\.2 is of type float; write protoat\.Linf\("):
        kind(0.2)  # type: ignore[arg-type]


def test_a_batchs_randomness_follows_the_global_state() -> None:
    x = torch.zeros(1)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(torch.rand(3, generator=Base.generator(x)))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    first, second = (torch.rand(3, generator=Base.generator(x)) for _ in range(2))
    assert not torch.equal(first, second)
