"""Library calls that cannot be right: a TypeError or ValueError of one line, raised in protoat, nothing written."""

from __future__ import annotations

import inspect
import random
import shutil
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.chaos.bad_calls import CALLS, RIGHT, namespace
from benchmarks.chaos.folders import differences, tree
from benchmarks.chaos.forks import forked, protoat
from benchmarks.chaos.verdicts import Verdict, spread

__all__ = ["ABOUT", "COUNT", "run"]

COUNT = 120
ABOUT = "bad calls of the library: written out, then drawn for numbers that classes take"

_FOLDERS = ("attacks", "methods", "regularizers", "pretraining", "training", "models")
# What a class needs before its options.
_FIRST = {"threat": "pa.Linf(0.1)", "num_classes": "2", "embedding_dim": "4", "in_channels": "1", "image_size": "8"}
_BAD = {"float": ("nan", "'x'", "inf", "[1.0]"), "int": ("1.5", "'x'", "nan", "-7", "[1]"), "bool": ("'x'", "nan", "7")}


def run(work: Path, numbers: list[int], seed: int, jobs: int, until: float) -> Iterator[Verdict]:
    """Judges the calls of these numbers."""
    place = work / "place"
    place.mkdir()
    words = "train --epochs 1 --schedule none --batch_size 256 --method.steps 1 --validation_size 50 --out run"
    if (ended := forked(protoat(*words.split()), place)).code:
        raise RuntimeError(f"a right command failed: {words}: {ended.err}")
    for call in RIGHT:
        if (ended := forked(_calling(call), place)).code != 3:
            raise RuntimeError(f"a right call failed: {call}: {ended.out} {ended.err}")
    shutil.rmtree(place / "new")
    cases = list(enumerate(_calls(max(numbers) + 1, seed)))
    yield from spread(
        partial(_judge, work, place), [cases[n] for n in numbers if n < len(cases)], jobs=jobs, until=until
    )


def _calls(count: int, seed: int) -> list[str]:
    drawn = _of_numbers()
    random.Random(f"calls {seed}").shuffle(drawn)
    return [*CALLS, *drawn][:count]


def _of_numbers() -> list[str]:
    """Each number and switch that a class takes, with values of another type or none at all."""
    import protoat

    calls = []
    for folder in _FOLDERS:
        module = getattr(protoat, folder)
        for name in module.__all__:
            made = getattr(module, name)
            if not inspect.isclass(made) or inspect.isabstract(made) or issubclass(made, BaseException):
                continue
            parameters = [each for each in inspect.signature(made).parameters.values() if each.kind != each.VAR_KEYWORD]
            needed = [each.name for each in parameters if each.default is each.empty]
            if any(each not in _FIRST for each in needed):
                continue
            for each in parameters:
                for kind, values in _BAD.items():
                    if each.default is not each.empty and kind in str(each.annotation).replace("|", " ").split():
                        first = "".join(f"{_FIRST[key]}, " for key in needed)
                        calls += [f"pa.{folder}.{name}({first}{each.name}={value})" for value in values]
    return calls


def _judge(work: Path, source: Path, case: tuple[int, str]) -> Verdict:
    number, call = case
    place = work / f"place-{number}"
    shutil.copytree(source, place)
    before = tree(place)
    ended = forked(_calling(call), place)
    said = ended.out.strip().splitlines()
    kind, found = None, said[-1] if said else ""
    if ended.hung:
        kind, found = "hang", f"{ended.seconds:.0f} s of its own time"
    elif ended.code:
        kind = {3: "accepted", 4: "not ours", 5: "not one line"}.get(ended.code, "crash")
        found = found or (ended.err.strip().splitlines() or [""])[-1]
    elif different := differences(before, tree(place)):
        kind, found = "written", "; ".join(different[:5])
    shutil.rmtree(place)
    return Verdict(number, call, kind, found if kind else "")


def _calling(call: str) -> Callable[[], int]:
    """Makes a call; 0 where it is refused as it should be."""

    def action() -> int:
        from protoat.errors import DiskError

        names: dict[str, Any] = namespace()
        try:
            value = eval(call, names)  # lines of ours
        except (TypeError, ValueError, FileNotFoundError, DiskError) as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            print(f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})".replace("\n", "\\n"))
            if "\n" in str(error) or not str(error):
                return 5
            return 4 if "site-packages" in last.filename else 0  # of torch's own it says nothing of what to do
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            text = str(error).splitlines() or [""]
            print(f"{type(error).__name__}: {text[0]} ({last.filename}:{last.lineno})")
            return 4
        print(f"returns {str(value)[:80]!r}")
        return 3

    return action
