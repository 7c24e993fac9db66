"""What short names of attacks mean."""

from __future__ import annotations

import pytest

from protoat.attacks import FGSM, PGD
from protoat.evaluation import attack_of_name
from protoat.types import L2, Linf

THREAT = Linf("8/255")


def test_clean_is_no_attack() -> None:
    assert attack_of_name("clean", THREAT) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fgsm", FGSM(THREAT)),
        ("pgd10", PGD(THREAT, steps=10, step_size="2/255")),
        ("pgd100", PGD(THREAT, steps=100, step_size="0.2/255")),
        ("pgd100x10", PGD(THREAT, steps=100, step_size="0.2/255", restarts=10)),
        ("pgdx3", PGD(THREAT, restarts=3)),
        ("pgd10@4/255", PGD(Linf("4/255"), steps=10, step_size="1/255")),
    ],
)
def test_name_gives_the_attack_with_documented_defaults(name: str, expected: PGD) -> None:
    attack = attack_of_name(name, THREAT)
    assert type(attack) is type(expected)
    assert attack is not None
    assert attack.parameters() == pytest.approx(expected.parameters())


def test_norm_is_that_of_the_threat() -> None:
    attack = attack_of_name("pgd5@1", L2(0.5))
    assert attack is not None
    assert attack.threat == L2(1.0)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("pdg10", "did you mean 'pgd10'"),
        ("pgd1O", "did you mean 'pgd'"),
        ("claen", "did you mean 'clean'"),
        ("fgsm10", "FGSM takes no steps"),
        ("", "write one of clean, "),
        ("zzzz", "write one of clean, "),
        ("pgd10@8", "eps=8 is outside"),
        ("pgd10@x", "not a pixel distance"),
        ("pgd0", "must be at least 1"),
    ],
)
def test_what_is_no_attack_gets_a_hint(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        attack_of_name(name, THREAT)
