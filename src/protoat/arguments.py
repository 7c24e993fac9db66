"""Argument checks shared by all constructors: numbers, words, flags, callables, kinds."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, get_args

from protoat.errors import UserError
from protoat.spelling import Verbatim, argument, setting

_SEEDS = 2**63
_MOST_EPOCHS = 1_000_000


def check_whole(least: int = 1, advice: str = "", /, **values: Any) -> None:
    """Refuses what is no whole number of `least` or more; ``True`` and ``2.0`` are none.

    Args:
        least: smallest number allowed.
        advice: ends the message.
        **values: arguments under their names; NumPy's integers will do.

    Raises:
        ValueError: names the argument, what came and what is expected.

    >>> check_whole(steps=10, restarts=0)
    Traceback (most recent call last):
    protoat.errors.UserError: steps=10 and restarts=0 must be at least 1
    >>> check_whole(epochs=1.5)
    Traceback (most recent call last):
    protoat.errors.UserError: epochs=1.5 is a float, expected a whole number of at least 1
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise _wrong_kind(name, value, f"a whole number of at least {least}")
    if any(value < least for value in values.values()):
        raise UserError(f"{setting(values)} must be at least {least}{_tail(advice)}")


def check_epochs(epochs: Any) -> None:
    """Refuses what is no number of epochs: a whole one from 1 to a million, as a slip of the hand trains for ever.

    Raises:
        ValueError: says what came.

    >>> check_epochs(10**12)
    Traceback (most recent call last):
    protoat.errors.UserError: epochs=1000000000000 is outside 1 to 1000000, and more than any run reaches
    """
    check_whole(epochs=epochs)
    if epochs > _MOST_EPOCHS:
        raise UserError(f"{setting(epochs=epochs)} is outside 1 to {_MOST_EPOCHS}, and more than any run reaches")


def check_number(interval: str, advice: str = "", /, **values: Any) -> None:
    """Refuses what is no finite number in an interval.

    Args:
        interval: such as ``"(0, 1]"`` or ``"[0, inf)"``; a square bracket belongs to it.
        advice: ends the message.
        **values: arguments under their names; NumPy's numbers will do.

    Raises:
        ValueError: names the argument, what came and what is expected.

    >>> check_number("(0, 1)", "0.999 is usual", decay=1.0)
    Traceback (most recent call last):
    protoat.errors.UserError: decay=1 is outside (0, 1); 0.999 is usual
    >>> check_number("(0, inf)", scale=float("nan"))
    Traceback (most recent call last):
    protoat.errors.UserError: scale=nan is not a number, expected one in (0, inf)
    """
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Real):
            raise _wrong_kind(name, value, f"a number in {interval}")
        if math.isnan(value):
            raise UserError(f"{setting({name: value})} is not a number, expected one in {interval}")
        if math.isinf(value):
            raise UserError(f"{setting({name: value})} is not finite, expected a number in {interval}")
    above = [value > low or (value == low and interval[0] == "[") for value in values.values()]
    below = [value < high or (value == high and interval[-1] == "]") for value in values.values()]
    if not all(above + below):
        raise UserError(f"{setting(values)} {_expectation(interval, low, high)}{_tail(advice)}")


def check_seed(**values: Any) -> None:
    """Refuses what is no seed: a whole number from 0 to ``2**63 - 1``, which every generator takes.

    Raises:
        ValueError: names the argument.

    >>> check_seed(seed=-1)
    Traceback (most recent call last):
    protoat.errors.UserError: seed=-1 is outside 0 to 2**63 - 1
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise _wrong_kind(name, value, "a whole number from 0 to 2**63 - 1")
        if not 0 <= int(value) < _SEEDS:
            raise UserError(f"{setting({name: value})} is outside 0 to 2**63 - 1")


def check_flag(**values: Any) -> None:
    """Refuses what is neither ``True`` nor ``False``, such as ``"false"``, which Python takes for true.

    Raises:
        ValueError: names the argument.

    >>> check_flag(guard="false")
    Traceback (most recent call last):
    protoat.errors.UserError: guard='false' is a str, expected True or False
    """
    for name, value in values.items():
        if not isinstance(value, bool):
            raise _wrong_kind(name, value, "True or False")


def check_choice(choices: Any, /, **values: Any) -> None:
    """Refuses what is none of the words of a ``Literal`` type.

    Raises:
        ValueError: names the argument, what came and the words.

    >>> from typing import Literal
    >>> check_choice(Literal["mean", "sum"], reduction="none")
    Traceback (most recent call last):
    protoat.errors.UserError: reduction='none' is unknown; write 'mean' or 'sum'
    """
    *words, last = map(repr, get_args(choices))
    for name, value in values.items():
        if value not in get_args(choices):
            raise UserError(f"{setting({name: value})} is unknown; write {', '.join(words)} or {last}")


def check_callable(**values: Any) -> None:
    """Refuses what cannot be called, such as the name of a function.

    Raises:
        TypeError: names the argument, and what came.

    >>> check_callable(loss="ce")
    Traceback (most recent call last):
    TypeError: loss='ce' is a str, expected a function
    """
    for name, value in values.items():
        if not callable(value):
            raise TypeError(str(_wrong_kind(name, value, "a function")))


def check_kind(kind: type, advice: str = "", /, **values: Any) -> None:
    """Refuses what is no instance of a class, before an attribute that it lacks is looked up.

    Args:
        kind: the class.
        advice: ends the message.
        **values: arguments under their names.

    Raises:
        TypeError: names the argument, what came and what is expected.

    >>> check_kind(dict, "write {'clean': None}", attacks="clean")
    Traceback (most recent call last):
    TypeError: attacks='clean' is a str, expected a dict; write {'clean': None}
    """
    for name, value in values.items():
        if not isinstance(value, kind):
            raise TypeError(f"{_wrong_kind(name, value, f'a {kind.__name__}')}{_tail(advice)}")


def counts_per_class(num_classes: int, **values: Any) -> list[int]:
    """One count for each class, given as such or as a number for all.

    Args:
        num_classes: C.
        **values: the argument under its name.

    Raises:
        ValueError: another number of counts, or one that is no whole number of at least 1.

    >>> counts_per_class(3, prototypes_per_class=2)
    [2, 2, 2]
    """
    [(name, value)] = values.items()
    counts = list(value) if isinstance(value, list | tuple) else [value] * num_classes
    if len(counts) != num_classes:
        raise UserError(f"{argument(name)} has {len(counts)} numbers, expected one for each of {num_classes} classes")
    for count in counts:
        check_whole(**{name: count})
    return counts


def _wrong_kind(name: str, value: Any, expected: str) -> ValueError:
    text = value if isinstance(value, str) else Verbatim(repr(value))
    shown = text if len(text) <= 60 else Verbatim(f"{text[:57]}...")
    return UserError(f"{setting({name: shown})} is a {type(value).__name__}, expected {expected}")


def _expectation(interval: str, low: float, high: float) -> str:
    if low == 0 and math.isinf(high):
        return "must not be negative" if interval[0] == "[" else "must be positive"
    return f"is outside {interval}"


def _tail(advice: str) -> str:
    return f"; {advice}" if advice else ""
