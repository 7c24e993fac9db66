"""Short names of attacks on a command line: ``pgd10``, ``pgd100x10``, ``fgsm@4/255``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from difflib import get_close_matches

from protoat import attacks
from protoat.attacks import Attack
from protoat.types import Pixels, ThreatModel

__all__ = ["attack_of_name"]

_SHAPE = re.compile(r"(?P<steps>\d+)?(x(?P<restarts>\d+))?")


def attack_of_name(name: str, threat: ThreatModel) -> Attack | None:
    """The attack that a short name means, or None for ``clean``.

    ``clean``, or the name of an attack class in small letters, then its ``steps``, then ``x`` and its ``restarts``,
    then ``@`` and another radius. Everything else is the default of the class: for PGD a random start, cross-entropy
    and the step size ``2.5 * eps / steps``.

    Args:
        name: such as ``fgsm``, ``pgd10``, ``pgd100x10``, ``pgd10@4/255``.
        threat: norm and radius where the name gives none.

    Raises:
        ValueError: an unknown name (the nearest valid one is given), or numbers the attack does not take.

    >>> threat = ThreatModel(Pixels("8/255"))
    >>> attack = attack_of_name("pgd100x10", threat)
    >>> attack.steps, attack.restarts, round(attack.step_size * 255, 6)
    (100, 10, 0.2)
    >>> attack_of_name("pdg10", threat)
    Traceback (most recent call last):
    ValueError: attack 'pdg10' is unknown; did you mean 'pgd10'?
    """
    short, _, radius = name.partition("@")
    if short == "clean":
        return None
    family, numbers = _split(short)
    if family is None:
        raise ValueError(f"attack {name!r} is unknown; {_suggestion(short)}")
    refused = [key for key in numbers if key not in inspect.signature(family).parameters]
    if refused:
        raise ValueError(f"attack {name!r} is unknown; {family.__name__} takes no {' and no '.join(refused)}")
    threat = ThreatModel(Pixels(radius), threat.norm) if radius else threat
    return family(threat, **numbers)


def _families() -> dict[str, Callable[..., Attack]]:
    """Attacks that need no more than a threat model, by their name in small letters."""
    exported = [getattr(attacks, name) for name in attacks.__all__]
    return {
        item.__name__.lower(): item
        for item in exported
        if inspect.isclass(item) and issubclass(item, Attack) and not inspect.isabstract(item) and _is_ready(item)
    }


def _is_ready(attack: type[Attack]) -> bool:
    first, *others = inspect.signature(attack).parameters.values()
    return first.name == "threat" and all(p.default is not p.empty for p in others if p.kind is p.KEYWORD_ONLY)


def _split(short: str) -> tuple[Callable[..., Attack] | None, dict[str, int]]:
    """The class a name begins with, the longest that leaves only numbers behind, and these numbers."""
    for name, family in sorted(_families().items(), key=lambda item: -len(item[0])):
        found = _SHAPE.fullmatch(short.removeprefix(name)) if short.startswith(name) else None
        if found is not None:
            return family, {key: int(value) for key, value in found.groupdict().items() if value is not None}
    return None, {}


def _suggestion(short: str) -> str:
    letters = re.match(r"\D*", short)
    stem = letters.group() if letters else ""
    known = ["clean", *_families()]
    near = get_close_matches(stem, known, n=1, cutoff=0.5)
    rest = short[len(stem) :]
    if not near:
        return f"write one of {', '.join(known)}, with steps and restarts as in pgd100x10"
    valid = near[0] if near[0] == "clean" or not _SHAPE.fullmatch(rest) else near[0] + rest
    return f"did you mean {valid!r}?"
