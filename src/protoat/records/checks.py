"""Checks of records: plain values against typed classes, and the parts of a record against each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from protoat.errors import UserError
from protoat.pixels import Pixels

_MOST_CLASSES = 1_000_000
_MOST_VALUES = 2**26  # of an image, for which a network would be built
_WORDS: dict[Any, str] = {
    int: "a whole number, 0 or more",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
}


class _Wrong(NamedTuple):
    """A place below a value, what stands there, and what should."""

    place: str
    found: Any
    wanted: str


def check_type(value: Any, expected: Any) -> None:
    """Refuses a value that is not of a type.

    Args:
        value: what JSON or YAML held.
        expected: a plain type, ``list``, ``dict``, ``Literal`` or union of such, or a `TypedDict`. ``int`` means a
            count: a whole number, 0 or more; ``float`` a number that is finite. Keys that a `TypedDict` does not name
            may hold anything: a later version may write more.

    Raises:
        ValueError: names the place, what stands there and what is expected.

    >>> check_type({"total": 3}, dict[str, int])
    >>> check_type({"total": -3}, dict[str, int])
    Traceback (most recent call last):
    protoat.errors.UserError: total is -3, expected a whole number, 0 or more
    """
    if (wrong := _wrong(value, expected)) is not None:
        raise UserError(f"{wrong.place.removeprefix('.') or 'it'} is {_shown(wrong.found)}, expected {wrong.wanted}")


def _wrong(value: Any, expected: Any) -> _Wrong | None:  # noqa: PLR0911 - a case for each kind of type
    """The first thing about a value that is not as expected."""
    kind, inner = _parts(expected)
    if expected is Any:
        return None
    if kind in (Union, UnionType):
        return _of_no(value, inner)
    if kind is Literal:
        fits = isinstance(value, str | int | None) and value in inner
        return None if fits else _Wrong("", value, " or ".join(map(repr, inner)))
    if kind is list:
        if not isinstance(value, list):
            return _Wrong("", value, "a list")
        return _first((f"[{number}]", _wrong(entry, inner[0])) for number, entry in enumerate(value))
    if kind is dict or hasattr(expected, "__required_keys__"):
        if not isinstance(value, dict):
            return _Wrong("", value, "a mapping")
        if kind is dict:
            return _first((f".{key}", _wrong(entry, inner[1])) for key, entry in value.items())
        return _first(
            (f".{key}", _wrong(value[key], own) if key in value else _Wrong("", None, "to be there"))
            for key, (own, required) in _hints(expected).items()
            if key in value or required
        )
    return None if _is(value, expected) else _Wrong("", value, _WORDS[expected])


def _first(found: Iterable[tuple[str, _Wrong | None]]) -> _Wrong | None:
    """The first that is wrong, by its place from above."""
    return next((wrong._replace(place=at + wrong.place) for at, wrong in found if wrong is not None), None)


def _of_no(value: Any, choices: tuple[Any, ...]) -> _Wrong | None:
    """Why a value has none of the types `choices`; None if it has one."""
    wrong = []
    for choice in choices:
        if (found := _wrong(value, choice)) is None:
            return None
        wrong.append(found)
    deeper = [found for found in wrong if found.place]
    return deeper[0] if deeper else _Wrong("", value, " or ".join(dict.fromkeys(found.wanted for found in wrong)))


@lru_cache(maxsize=256)
def _parts(expected: Any) -> tuple[Any, tuple[Any, ...]]:
    return get_origin(expected), get_args(expected)


@lru_cache(maxsize=64)
def _hints(expected: Any) -> Mapping[str, tuple[Any, bool]]:
    """The type of each key, and whether it must be there; `MayLack` says that it need not."""
    return {
        key: (get_args(hint)[0], False) if get_origin(hint) is Annotated else (hint, key in expected.__required_keys__)
        for key, hint in get_type_hints(expected, include_extras=True).items()
    }


def _is(value: Any, expected: Any) -> bool:
    if expected is bool or isinstance(value, bool):
        return expected is bool and isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and 0 <= value < 2**63
    if expected is float:
        return isinstance(value, int | float) and abs(value) < 1e300 and math.isfinite(value)
    return isinstance(value, expected)


def _shown(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, dict | list):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = repr(value) if value is not None else "not there or null"
    return text if len(text) <= 40 else f"{text[:37]}..."


def check_evaluation(record: Mapping[str, Any]) -> None:
    """Refuses an ``evaluation.json`` that cannot be.

    Raises:
        ValueError: names the two parts that contradict each other.
    """
    subject, attacks, worst = record["subject"], record["attacks"], record.get("worst_case")
    _check_images(subject["images"], record.get("test_images"))
    _check_radius(subject)
    _check_entries(attacks, subject["images"])
    if worst is None:
        return
    if "threat" not in subject:
        raise UserError("there is a worst_case, and no subject.threat that it is of")
    _check_entries({"worst_case": worst, **attacks}, subject["images"], within="")
    entering = worst["parameters"]["attacks"]
    if unknown := sorted(set(entering) - attacks.keys()):
        raise UserError(f"worst_case is over {unknown[0]!r}, which is not among the attacks")
    left = 2 ** subject["images"] - 1
    for name in entering:
        left &= int(attacks[name]["outcomes"], base=2)
    if left != int(worst["outcomes"], base=2):
        raise UserError(f"worst_case leaves {worst['correct']} right, and its attacks together {left.bit_count()}")


def check_probe(record: Mapping[str, Any]) -> None:
    """Refuses a ``probe.json`` that cannot be; see `check_evaluation`."""
    if not record["encoders"]["trained"]["standard"]:
        raise UserError("encoders.trained.standard holds no attack")
    for encoder, heads in record["encoders"].items():
        for head, attacks in heads.items():
            _check_entries(attacks, record["subject"]["images"], within=f"encoders.{encoder}.{head}")


def check_audit(record: Mapping[str, Any]) -> None:
    """Refuses an ``audit.json`` that cannot be; see `check_evaluation`."""
    _check_images(record["images"], record.get("test_images"))
    _check_radius(record)
    statuses = {check["id"]: check["status"] for check in record["checks"]}
    if len(statuses) < len(record["checks"]):
        raise UserError("a check is there twice")
    passed = not {"fail", "incomplete"} & set(statuses.values())
    if record.get("passed", passed) is not passed:
        raise UserError(f"passed is {record['passed']}, and the checks say {passed}")


def check_best(record: Mapping[str, Any]) -> None:
    """Refuses a ``best.json`` that cannot be; see `check_evaluation`."""
    _check_shares(record, "")


def check_facts(facts: Mapping[str, Any]) -> None:
    """Refuses a ``run.json`` that cannot be; see `check_evaluation`."""
    classes, names, shape = facts.get("num_classes"), facts.get("class_names"), facts.get("shape")
    if classes is not None and not 0 < classes <= _MOST_CLASSES:
        raise UserError(f"num_classes is {classes}, expected 1 to {_MOST_CLASSES}")
    if names is not None and classes not in (None, len(names)):
        raise UserError(f"num_classes is {classes}, and there are {len(names)} class_names")
    modes = facts.get("prototype_modes")
    if modes is not None and classes not in (None, len(modes)):
        raise UserError(f"num_classes is {classes}, and prototype_modes are of {len(modes)}")
    if shape is not None and (len(shape) != 3 or not 0 < math.prod(shape) <= _MOST_VALUES):
        raise UserError(f"shape is {shape}, expected channels, height and width of an image")


def check_epochs(lines: Sequence[Mapping[str, Any]]) -> None:
    """Refuses lines of ``metrics.jsonl`` that cannot follow each other; see `check_evaluation`."""
    before, classes = 0, None
    for line in lines:
        if line["epoch"] <= before:
            raise UserError(f"epoch {line['epoch']} follows epoch {before}")
        before = line["epoch"]
        if "validation" in line:
            _check_shares(line["validation"], f"of epoch {before} ")
        counts = line.get("objective", {}).get("prototype_counts")
        if counts is not None and classes not in (None, len(counts)):
            raise UserError(f"epoch {before} has prototypes of {len(counts)} classes, and those before of {classes}")
        classes = classes if counts is None else len(counts)
        learned = line.get("objective", {})
        for key in ("in_use", "usage"):
            if key in learned and counts is not None and len(learned[key]) != len(counts):
                raise UserError(f"epoch {before} has prototypes of {len(counts)} classes, and {key} of others")


def check_recipe(recipe: Mapping[str, Any]) -> None:
    """Refuses a ``recipe.yaml`` whose radii are no numbers; see `check_evaluation`."""
    for key in ("threat", "evaluation_threat"):
        eps = (recipe.get(key) or {}).get("eps", 0.0)
        if not 0 <= Pixels(eps) < math.inf:
            raise UserError(f"{key}.eps is {eps}, which is no radius")


def check_kept(kept: Mapping[str, Any]) -> None:
    """Refuses outcomes of a batch that cannot be; see `check_evaluation`."""
    if set(kept["outcomes"]) - {"0", "1"}:
        raise UserError("outcomes holds more than 0 and 1")


def _check_images(images: int, there: int | None) -> None:
    if there is not None and images > there:
        raise UserError(f"{images} images were measured, and there are {there} test_images")


def _check_radius(holder: Mapping[str, Any]) -> None:
    if "threat" in holder and holder["threat"]["eps"] < 0:
        raise UserError(f"threat.eps is {holder['threat']['eps']}, which is no radius")


def _check_shares(measured: Mapping[str, Any], what: str) -> None:
    for name in ("clean", "robust"):
        if not 0 <= measured.get(name, 0) <= 1:
            raise UserError(f"{name} accuracy {what}is {measured[name]}, expected 0 to 1")


def _check_entries(entries: Mapping[str, Any], images: int, *, within: str = "attacks") -> None:
    """Refuses attacks whose counts and outcomes disagree, or that are not of the same images."""
    sizes: dict[str, tuple[str, dict[str, int]]] = {}
    for name, entry in entries.items():
        place = f"{within}.{name}" if within else name
        right, wrong = (entry["outcomes"].count(character) for character in "10")
        if right + wrong < len(entry["outcomes"]):
            raise UserError(f"{place}.outcomes holds more than 0 and 1")
        _agree(place, "outcomes", entry, (right, right + wrong))
        if entry["total"] != images:
            raise UserError(f"{place} is of {entry['total']} images, and the record of {images}")
        for kind in ("per_class", "per_mode"):
            groups = entry[kind]
            if above := [group for group, n in groups.items() if n["correct"] > n["total"]]:
                raise UserError(f"{place}.{kind}.{above[0]} has more images right than there are")
            if any(not group["total"] for group in groups.values()) or not groups:
                raise UserError(f"{place}.{kind} has a group without images")
            sums = [sum(group[key] for group in groups.values()) for key in ("correct", "total")]
            _agree(place, kind, entry, (sums[0], sums[1]))
            of_first = sizes.setdefault(kind, (place, {group: n["total"] for group, n in groups.items()}))
            if of_first[1] != {group: n["total"] for group, n in groups.items()}:
                raise UserError(f"{place}.{kind} and {of_first[0]}.{kind} are not of the same images")


def _agree(place: str, part: str, entry: Mapping[str, Any], found: tuple[int, int]) -> None:
    if found != (entry["correct"], entry["total"]):
        raise UserError(
            f"{place} says {entry['correct']} of {entry['total']} images are right, and its {part} {found[0]} of "
            f"{found[1]}"
        )
