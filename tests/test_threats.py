"""Threat models: values that say what they are."""

from __future__ import annotations

import copy
import pickle
from dataclasses import asdict
from typing import get_args

import hypothesis.strategies as st
import pytest
from hypothesis import given

import protoat as pa
from protoat.functional.norms import NORMS
from protoat.threats import NormName, ThreatModel

NAMES = {"Linf": pa.Linf, "L2": pa.L2, "L1": pa.L1}
FRONT_DOOR = {name.lower(): build for name, build in NAMES.items()}


def test_every_norm_has_a_name_on_the_command_line_and_a_class_at_the_front_door() -> None:
    assert set(get_args(NormName)) == set(NORMS) == set(FRONT_DOOR)


@pytest.mark.parametrize("name", NORMS)
@given(eps=st.one_of(st.integers(1, 255).map(lambda levels: levels / 255), st.floats(1e-6, 1)))
def test_a_threat_model_is_what_its_repr_builds(name: str, eps: float) -> None:
    threat = ThreatModel(eps, name)  # type: ignore[arg-type]
    assert FRONT_DOOR[name](eps) == threat == eval(repr(threat), NAMES) and asdict(threat) == {
        "eps": eps,
        "norm": name,
    }
    assert copy.deepcopy(threat) == threat == pickle.loads(pickle.dumps(threat))
    assert len({threat, FRONT_DOOR[name](eps)}) == 1


@pytest.mark.parametrize(
    ("threat", "shown"),
    [
        (pa.Linf("8/255"), "Linf(8/255)"),
        (pa.Linf(0.0313725), "Linf(0.0313725)"),
        (pa.L2(1), "L2(1.0)"),
        (pa.L2("128/255"), "L2(0.5019607843137255)"),
        (pa.L1(12), "L1(12.0)"),
    ],
)
def test_a_radius_is_a_fraction_where_it_is_one_of_grey_levels(threat: ThreatModel, shown: str) -> None:
    assert repr(threat) == shown


@pytest.mark.parametrize(
    ("eps", "norm", "message"),
    [
        (8, "linf", r"eps=8 is outside \(0, 1\]; pixels are in \[0, 1\], so write 8/255"),
        (0, "linf", r"eps=0 is outside \(0, 1\]"),
        (0, "l2", "eps=0 is not a positive L2 radius"),
        (-1, "l1", "eps=-1 is not a positive L1 radius"),
        (0.5, "l3", "norm='l3' is unknown; write 'linf', 'l2' or 'l1'"),
        ("x", "l1", "'x' is not a pixel distance"),
        (float("nan"), "l1", "nan is not a pixel distance"),
    ],
)
def test_mistakes_are_named(eps: float, norm: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ThreatModel(eps, norm)  # type: ignore[arg-type]
