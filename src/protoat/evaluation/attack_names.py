"""Short names of attacks on a command line: ``pgd100x10``, ``fgsm@4/255``, ``pgd10/0.01``, ``pgd10:next``, ``aa``."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from functools import partial
from typing import get_args

from protoat import attacks
from protoat.arguments import check_kind
from protoat.attacks import Attack, Targeted, TargetRule
from protoat.errors import UserError
from protoat.functional.losses import margin
from protoat.functional.margins import dlr
from protoat.names import nearest
from protoat.pixels import Pixels
from protoat.threats import ThreatModel

Family = Callable[..., Attack]
Attacks = str | Attack | Iterable[str | Attack | None] | Mapping[str, str | Attack | None]
_EXAMPLE = "write ['clean', 'pgd20'] or {'mine': protoat.PGD(protoat.Linf(8/255), steps=10)}"
_GRAMMAR = re.compile(r"(?P<number>\d+)?(x(?P<restarts>\d+))?")
# What the number behind a name counts: the first of these that the attack takes.
_COUNTED = ("steps", "queries", "draws")
_SHORT: dict[str, Family] = {
    "aa": attacks.AutoAttack,
    "aa-fast": attacks.FastEnsemble,
    "apgd-ce": attacks.APGD,
    "apgd-dlr": partial(attacks.APGD, loss=dlr),
    "apgd-margin": partial(attacks.APGD, loss=margin),
    "apgd-t": attacks.APGDT,
    "corner": attacks.CornerNoise,
    "cw": attacks.CWPGD,
    "cw-l0": attacks.CarliniWagnerL0,
    "cw-l2": attacks.CarliniWagnerL2,
    "cw-linf": attacks.CarliniWagnerLinf,
    "displace": attacks.EmbeddingDisplacement,
    "fab-t": attacks.FABT,
    "noise": attacks.UniformNoise,
}


def attack_of_name(name: str, threat: ThreatModel, *, more: Mapping[str, Family] | None = None) -> Attack | None:
    """The attack that a short name means, or None for ``clean``.

    ``clean``; or the name of an attack, then how often it steps (or queries, or draws), then ``x`` and its restarts,
    then ``/`` and a step size, then ``:`` and a rule for targets, then ``@`` and another radius. The name is that of
    the attack's class in small letters, or a shorter one (`describe_names`). Everything else is the default of the
    class: for PGD a random start, cross-entropy and the step size ``2.5 * eps / steps``.

    Args:
        name: such as ``fgsm``, ``pgd100x10``, ``pgd20/2/255``, ``pgd10:least_likely``, ``pgd10@4/255``, ``square1000``.
        threat: norm and radius where the name gives none.
        more: further names; each is called with the threat model and the numbers of the name.

    Raises:
        ValueError: an unknown name (the nearest valid one is given), numbers or a step size the attack does not take,
            or targets for an attack that has no targeted form.

    >>> threat = ThreatModel(Pixels("8/255"))
    >>> attack = attack_of_name("pgd100x10", threat)
    >>> attack.steps, attack.restarts, round(attack.step_size * 255, 6)
    (100, 10, 0.2)
    >>> attack_of_name("pgd10/0.01", threat).step_size
    0.01
    >>> attack_of_name("pdg10", threat)
    Traceback (most recent call last):
    protoat.errors.UserError: attack 'pdg10' is unknown; did you mean 'pgd10'?
    """
    if name == "clean":
        return None
    check_kind(str, "such as 'pgd10'", name=name)
    rest, at, radius = name.partition("@")
    if rest == "clean":
        raise UserError(f"attack {name!r}: clean images have no radius; write clean")
    rest, colon, rule = rest.partition(":")
    short, slash, step = rest.partition("/")
    families = {**_families(), **(more or {})}
    family, numbers = _split(short, families)
    if family is None:
        raise UserError(f"attack {name!r} is unknown; {_suggestion(short, families)}")
    if colon and rule not in get_args(TargetRule):
        raise UserError(f"attack {name!r}: rule for targets {rule!r} is unknown; {nearest(rule, get_args(TargetRule))}")
    try:
        within = ThreatModel(Pixels(radius), threat.norm) if at else threat
        stepping = {"step_size": Pixels(step)} if slash else {}
        attack = family(within, **_settings(family, {**numbers, **stepping}))
        return Targeted(attack, rule) if colon else attack  # type: ignore[arg-type] # a rule, see above
    except ValueError as error:
        raise UserError(f"attack {name!r}: {error}") from error


def named_attacks(attacks: Attacks, threat: ThreatModel | None = None) -> dict[str, Attack | None]:
    """Attacks by name, clean images (None) among them, out of names, attacks, several of them, or a mapping.

    An attack without a name is called by its class, and the second one ``pgd-2``.

    Args:
        attacks: see `protoat.evaluate`.
        threat: norm and radius of those that are given by name.

    Raises:
        TypeError: something that is neither a name nor an attack.
        ValueError: none at all, one by name without `threat`, or an unknown name.

    >>> from protoat.attacks import FGSM
    >>> from protoat.threats import Linf
    >>> {name: type(attack).__name__ for name, attack in named_attacks(["pgd10", FGSM(Linf(0.1))], Linf(0.3)).items()}
    {'clean': 'NoneType', 'pgd10': 'PGD', 'fgsm': 'FGSM'}
    >>> named_attacks("pgd10")
    Traceback (most recent call last):
    protoat.errors.UserError: attack 'pgd10' is given by name, which needs norm and radius: threat=protoat.Linf(8/255)
    """
    if isinstance(attacks, str | Attack | None):
        attacks = [attacks]
    if not isinstance(attacks, Mapping | Iterable):
        raise TypeError(f"attacks is a {type(attacks).__name__}, expected attacks or their names; {_EXAMPLE}")
    named: dict[str, Attack | None] = {}
    for item in attacks.items() if isinstance(attacks, Mapping) else ((None, attack) for attack in attacks):
        name, attack = item
        if isinstance(attack, str):
            name = attack if name is None else name
            if threat is None and attack != "clean":
                raise UserError(
                    f"attack {attack!r} is given by name, which needs norm and radius: threat=protoat.Linf(8/255)"
                )
            attack = None if threat is None else attack_of_name(attack, threat)
        if not isinstance(attack, Attack | None):
            raise TypeError(
                f"attack {attack!r} is a {type(attack).__name__}, expected an attack or its name; {_EXAMPLE}"
            )
        check_kind(str, "each attack has a name", name=(name := name or _unused_name(attack, named)))
        if name in named or (name == "clean" and attack is not None):
            raise UserError(f"the name {name!r} is {'taken' if name in named else 'of clean images'}; {_EXAMPLE}")
        named[name] = attack
    if not named:
        raise UserError("there is no attack to measure; write 'clean' for clean accuracy")
    return named if None in named.values() else {"clean": None, **named}


def _unused_name(attack: Attack | None, taken: Collection[str]) -> str:
    name = "clean" if attack is None else type(attack).__name__.lower()
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(each for each in itertools.chain([name], numbered) if each not in taken)


def describe_names() -> str:
    """A line for each attack: its name, what may stand behind it, and what it does.

    >>> "pgd[N][xR][/STEP][:RULE] " in describe_names()
    True
    """
    families = _families()
    shortened = [family for name, family in families.items() if name in _SHORT]
    shown = {name: family for name, family in families.items() if name in _SHORT or family not in shortened}
    lines = {}
    for name, family in sorted(shown.items()):
        of_class = family.func if isinstance(family, partial) else family
        takes = inspect.signature(family).parameters
        numbers = "[N]" * any(key in takes for key in _COUNTED) + "[xR]" * ("restarts" in takes)
        numbers += "[/STEP]" * ("step_size" in takes)
        rule = "[:RULE]" * bool(getattr(of_class, "can_target", False))
        summary = str(inspect.getdoc(of_class)).split("\n")[0]
        loss = f" On {family.keywords['loss'].__name__}." if isinstance(family, partial) else ""
        lines[name + numbers + rule] = f"{summary}{loss}"
    return "\n".join(f"{name:<26} {told}" for name, told in lines.items())


def _families() -> dict[str, Family]:
    """Attacks that need no more than a threat model, by name: short ones, and classes in small letters."""
    exported = [getattr(attacks, name) for name in attacks.__all__]
    classes = {
        item.__name__.lower(): item
        for item in exported
        if inspect.isclass(item) and issubclass(item, Attack) and not inspect.isabstract(item) and _is_ready(item)
    }
    return {**classes, **_SHORT}


def _is_ready(attack: type[Attack]) -> bool:
    first, *others = inspect.signature(attack).parameters.values()
    return first.name == "threat" and all(p.default is not p.empty for p in others if p.kind is p.KEYWORD_ONLY)


def _split(short: str, families: Mapping[str, Family]) -> tuple[Family | None, dict[str, int]]:
    """The attack a name begins with, the longest that leaves only numbers behind, and these numbers."""
    for name, family in sorted(families.items(), key=lambda item: -len(item[0])):
        found = _GRAMMAR.fullmatch(short.removeprefix(name)) if short.startswith(name) else None
        if found is not None:
            return family, {key: int(value) for key, value in found.groupdict().items() if value is not None}
    return None, {}


def _settings(family: Family, numbers: Mapping[str, float]) -> dict[str, float]:
    """What the numbers of a name set."""
    taken = inspect.signature(family).parameters
    counted = next((key for key in _COUNTED if key in taken), None)
    if "number" in numbers and counted is None:
        raise UserError(f"it takes no number of {', '.join(_COUNTED[:-1])} or {_COUNTED[-1]}")
    for key, told in (("restarts", "restarts"), ("step_size", "step size")):
        if key in numbers and key not in taken:
            raise UserError(f"it takes no {told}")
    return {str(counted) if key == "number" else key: value for key, value in numbers.items()}


def _suggestion(short: str, families: Mapping[str, Family]) -> str:
    letters = re.match(r"\D*", short)
    stem = letters.group() if letters else ""
    known = ["clean", *families]
    near = get_close_matches(stem, known, n=1, cutoff=0.5)
    rest = short[len(stem) :]
    if not near:
        return f"write one of {', '.join(known)}, with steps and restarts as in pgd100x10"
    valid = near[0] if near[0] == "clean" or not _GRAMMAR.fullmatch(rest) else near[0] + rest
    return f"did you mean {valid!r}?"
