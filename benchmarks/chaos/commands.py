"""Runs command lines that cannot be right: each must end in one line, exit code 2, and the folder as it was."""

from __future__ import annotations

import os
import random
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.chaos.folders import differences, tree
from benchmarks.chaos.forks import Ended, Setting, forked, protoat
from benchmarks.chaos.grammar import GOOD, GRAMMAR, SHORT
from benchmarks.chaos.verdicts import Verdict, spread

__all__ = ["ABOUT", "COUNT", "run"]

COUNT = 300
ABOUT = "bad command lines, and good ones with an ASCII terminal or a full disk as output"

_OUTPUTS = ("ascii", "full", "closed")


@dataclass(frozen=True)
class _Case:
    number: int
    words: tuple[str, ...]
    output: str = ""  # one of _OUTPUTS, of a line that is right

    def told(self) -> str:
        words = shlex.join(word if len(word) <= 60 else f"{word[:20]}...({len(word)})" for word in self.words)
        where = {"ascii": "PYTHONIOENCODING=ascii ", "full": "", "closed": ""}.get(self.output, "")
        to = {"full": " > /dev/full", "closed": " > a pipe that nobody reads"}.get(self.output, "")
        return f"{where}protoat {words.encode(errors='backslashreplace').decode()}{to}"


def run(work: Path, numbers: list[int], seed: int, jobs: int, until: float) -> Iterator[Verdict]:
    """Judges the command lines of these numbers."""
    place = work / "place"
    _furnish(place)
    cases = _cases(max(numbers) + 1, seed)
    yield from spread(
        partial(_judge, work, place), [cases[n] for n in numbers if n < len(cases)], jobs=jobs, until=until
    )


def _cases(count: int, seed: int) -> list[_Case]:
    """Drawn so that each option of each command comes before any has its second value."""
    draw = random.Random(f"commands {seed}")
    rounds: list[list[tuple[tuple[str, ...], str]]] = []
    for base, options in GRAMMAR.items():
        for option, values in options.items():
            for turn, value in enumerate(draw.sample(values, len(values))):
                rounds += [[] for _ in range(turn + 1 - len(rounds))]
                rounds[turn].append((_line(base.split(), option, value), ""))
    for output in _OUTPUTS:
        for turn, good in enumerate(draw.sample(GOOD, len(GOOD))):
            rounds[turn % len(rounds)].append((tuple(good.split()), output))
    for each in rounds:
        draw.shuffle(each)
    lines = [line for each in rounds for line in each]
    return [_Case(number, words, output) for number, (words, output) in enumerate(lines[:count])]


def _line(base: list[str], option: str, value: str) -> tuple[str, ...]:
    """A line with a bad value: of an option, or in place of what follows the command, or as its last word."""
    if option:
        kept = list(base)
        if option in kept:
            at = kept.index(option)
            del kept[at : at + 2]
        return (*kept, option, *(value.split() if option in ("--mean",) else (value,)))
    if len(base) > 1 and base[1] == "run" and base[0] != "compare":
        return (base[0], value, *base[2:])
    if base[:1] == ["figure"] and len(base) > 2:
        return (*base[:2], value, *base[3:])
    return (*base, value)


def _furnish(place: Path) -> None:
    """A working folder with runs, and with all that is no run."""
    place.mkdir()
    for name, more in (("run", ""), ("other", "--seed 1"), ("unmeasured", "--seed 2"), ("other-recipe", "--weight 2")):
        _must(place, f"train {SHORT} --out {name} {more}")
    for name in ("run", "other"):
        _must(place, f"evaluate {name} --n 20 --attacks clean")
    (place / "file").write_text("text\n")
    (place / "empty").mkdir()
    (place / "full").mkdir()
    (place / "full/of.txt").write_text("the user's own\n")
    (place / "loop").symlink_to("loop")
    (place / "broken").symlink_to("nowhere")
    (place / "link").symlink_to("run")
    os.mkfifo(place / "fifo")
    recipe = (place / "run/recipe.yaml").read_text()
    damaged = {
        "binary": bytes(range(256)),
        "utf16": recipe.encode("utf-16"),
        "bomb": ("a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
        )).encode(),
        "deep": b"[" * 100_000,
        "huge": b"data: " + b"x" * 50_000_000,
        "scalar": b"7\n",
    }  # fmt: skip
    for name, content in damaged.items():
        (place / name).mkdir()
        (place / name / "recipe.yaml").write_bytes(content)
    (place / "self").mkdir()
    (place / "self/recipe.yaml").symlink_to("recipe.yaml")
    (place / "device").mkdir()
    (place / "device/recipe.yaml").symlink_to("/dev/zero")
    named = place / "named" / "Zürich\x1b[31m"
    named.parent.mkdir()
    shutil.copytree(place / "run", named)


def _judge(work: Path, source: Path, case: _Case) -> Verdict:
    place = work / f"place-{case.number}"
    _copy(source, place)
    before = tree(place)
    if case.output:
        setting = Setting(
            encoding="ascii" if case.output == "ascii" else "utf-8",
            stdout=Path("/dev/full") if case.output == "full" else None,
            unread=case.output == "closed",
        )
        failure = _broken_output(case, forked(protoat(*case.words), place, setting))
    else:
        ended = forked(protoat(*case.words), place)
        failure = _written(before, tree(place)) or _accepted(ended)
        failure = _accepted(ended) if ended.crashed or ended.hung else failure
    shutil.rmtree(place)
    return Verdict(case.number, case.told(), *(failure or (None, "")))


def _accepted(ended: Ended) -> tuple[str, str] | None:
    """What is wrong with how a bad line ended."""
    *others, last = ended.err.splitlines() or [""]
    found = {
        "hang": ended.hung and f"{ended.seconds:.0f} s of its own time",
        "traceback": ended.crashed and last,
        "not refused": ended.code != 2 and f"exit code {ended.code}: {last}",
        # Lines that say what goes on may stand before it.
        "not one line": (": error: " not in last or len(others) > 2 or any("error" in line for line in others))
        and repr(ended.err[:500]),
        "control characters": any(not character.isprintable() for character in last) and repr(last),
        "too long": len(last) > 2000 and f"{len(last)} characters: {last[:100]}",
    }
    return next(((kind, said) for kind, said in found.items() if isinstance(said, str)), None)


def _broken_output(case: _Case, ended: Ended) -> tuple[str, str] | None:
    last = (ended.err.splitlines() or [""])[-1]
    if ended.hung:
        return "hang", f"{ended.seconds:.0f} s of its own time"
    if ended.crashed:
        return "traceback", last
    if case.output == "ascii" and ended.code not in (0, 1):
        return "refused", last
    if case.output == "full" and (ended.code == 0 or "No space left" not in ended.err):
        return "full disk unsaid", f"exit code {ended.code}: {last}"
    if "\x1b[31m" in ended.out:
        return "control characters", "a name is printed as it came"
    return None


def _written(before: dict[str, str], after: dict[str, str]) -> tuple[str, str] | None:
    different = differences(before, after)
    return ("written", "; ".join(different[:5])) if different else None


def _copy(source: Path, place: Path) -> None:
    """A copy with links and pipes; huge files are linked, as nothing writes into them."""
    place.mkdir()
    for path in sorted(source.rglob("*")):
        new = place / path.relative_to(source)
        if path.is_symlink():
            new.symlink_to(path.readlink())
        elif path.is_dir():
            new.mkdir()
        elif path.is_file() and path.stat().st_size < 1 << 20:
            shutil.copy2(path, new)
        elif path.is_file():
            os.link(path, new)
        else:
            os.mkfifo(new)


def _must(place: Path, words: str) -> None:
    ended = forked(protoat(*words.split()), place)
    if ended.code:
        raise RuntimeError(f"a right command failed: {words}: {ended.err}")
