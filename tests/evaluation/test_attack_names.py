"""What short names of attacks mean."""

from __future__ import annotations

import pytest

from protoat import attacks
from protoat.attacks import (
    APGD,
    BIM,
    CWPGD,
    FGSM,
    PGD,
    Attack,
    CarliniWagnerL0,
    CarliniWagnerL2,
    CarliniWagnerLinf,
    Square,
    Targeted,
    Transfer,
    UniformNoise,
)
from protoat.evaluation import attack_of_name
from protoat.evaluation.attack_names import describe_names, named_attacks
from protoat.functional.margins import dlr
from protoat.threats import L2, Linf

from ..contracts.parts import concrete

THREAT = Linf("8/255")
NAMES = [line.split("[")[0].split(" ")[0] for line in describe_names().splitlines()]


def flat(parameters: dict) -> dict:
    inner = {f"of {key}": value for key, value in parameters.pop("of", {}).items()}
    return parameters | inner


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
        ("pgd10/0.01", PGD(THREAT, steps=10, step_size=0.01)),
        ("pgd20x2/2/255@4/255", PGD(Linf("4/255"), steps=20, step_size="2/255", restarts=2)),
        ("bim7/1/255", BIM(THREAT, steps=7, step_size="1/255")),
        ("cw/2/255", CWPGD(THREAT, step_size="2/255")),
        ("pgd5/0.02:next", Targeted(PGD(THREAT, steps=5, step_size=0.02), "next")),
        ("bim7", BIM(THREAT, steps=7)),
        ("apgd-dlr20x2", APGD(THREAT, steps=20, restarts=2, loss=dlr)),
        ("square100x2", Square(THREAT, queries=100, restarts=2)),
        ("noise50", UniformNoise(THREAT, draws=50)),
        ("cw-l250", CarliniWagnerL2(THREAT, steps=50)),
        ("cw-l050", CarliniWagnerL0(THREAT, steps=50)),
        ("cw-linf50", CarliniWagnerLinf(THREAT, steps=50)),
        ("pgd10:next", Targeted(PGD(THREAT, steps=10), "next")),
        ("pgd10x2:all@4/255", Targeted(PGD(Linf("4/255"), steps=10, restarts=2), "all")),
    ],
)
def test_name_gives_the_attack_with_documented_defaults(name: str, expected: PGD) -> None:
    attack = attack_of_name(name, THREAT)
    assert type(attack) is type(expected)
    assert attack is not None
    assert flat(attack.parameters()) == pytest.approx(flat(expected.parameters()))


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
        ("fgsm10", "it takes no number of steps, queries or draws"),
        ("jsmax2", "it takes no restarts"),
        ("deepfool/0.1", "attack 'deepfool/0.1': it takes no step size"),
        ("pgd10/", "not a pixel distance"),
        ("adgd-t", "did you mean 'apgd-t'"),
        ("pgd10:leastlikely", "did you mean 'least_likely'"),
        ("pgd10:", "write one of all, least_likely, next, random"),
        ("deepfool:all", "DeepFool has no targeted form"),
        ("aa:next", "AutoAttack has no targeted form"),
        ("", "write one of clean, "),
        ("zzzz", "write one of clean, "),
        ("pgd10@8", "eps=8 is outside"),
        ("pgd10@x", "not a pixel distance"),
        ("pgd10@", "not a pixel distance"),
        ("clean@0.1", "attack 'clean@0.1': clean images have no radius; write clean"),
        ("pgd0", "attack 'pgd0': steps=0 and restarts=1 must be at least 1"),
    ],
)
def test_what_is_no_attack_gets_a_hint(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        attack_of_name(name, THREAT)


def test_every_attack_has_a_name() -> None:
    """`Transfer` needs a model, and `Targeted` is the rule behind a name."""
    found = {type(attack_of_name(name, THREAT)) for name in NAMES}
    assert found == {*concrete(Attack, attacks)} - {Transfer, Targeted}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_listed_may_stand_behind_the_name(name: str) -> None:
    line = next(line for line in describe_names().splitlines() if line.split("[")[0].split(" ")[0] == name)
    usage = line.split(" ")[0]
    for part, written in (("[N]", "3"), ("[xR]", "x2"), ("[/STEP]", "/0.01"), ("[:RULE]", ":next")):
        if part in usage:
            assert attack_of_name(name + written, THREAT) is not None
        else:
            with pytest.raises(ValueError, match=name):
                attack_of_name(name + written, THREAT)


def test_further_names_are_called_with_their_numbers() -> None:
    more = {"own-attack": lambda threat, *, steps=1: PGD(threat, steps=steps)}
    found = attack_of_name("own-attack5@0.5", THREAT, more=more)
    assert isinstance(found, PGD)
    assert (found.steps, found.threat.eps) == (5, 0.5)
    with pytest.raises(ValueError, match="did you mean 'own-attack'"):
        attack_of_name("own-atack", THREAT, more=more)


@pytest.mark.parametrize(
    ("given", "name"),
    [([PGD(THREAT, steps=50), "pgd"], "pgd"), (["pgd10", "pgd10"], "pgd10"), ({"clean": FGSM(THREAT)}, "clean")],
)
def test_no_attack_takes_the_name_of_another(given: object, name: str) -> None:
    with pytest.raises(ValueError, match=f"the name '{name}' is"):
        named_attacks(given, THREAT)
