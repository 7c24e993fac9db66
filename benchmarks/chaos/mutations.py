"""Damage to single files of run folders: each command names the file, or says what it would have said without it."""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.chaos import specimens
from benchmarks.chaos.folders import differences, results
from benchmarks.chaos.forks import Ended, Setting, forked, protoat
from benchmarks.chaos.verdicts import Verdict, spread

__all__ = ["ABOUT", "COUNT", "run"]

COUNT = 400
ABOUT = f"mutations of files of runs, each judged by {', '.join(specimens.COMMANDS)}"

_KINDS = ("flip", "truncate", "empty", "zero", "folder", "forbid", "link")
_PRECIOUS = "the user's own\n"
# What training answers for: damage to these is never passed over by `train`.
_OF_TRAINING = re.compile(r"run/(recipe\.yaml|run\.json|metrics\.jsonl|best\.json|(best|last)\.safetensors)")


@dataclass(frozen=True)
class _Result:
    """What a command said and left behind."""

    ended: Ended
    left: Mapping[str, str]


@dataclass(frozen=True)
class _Case:
    number: int
    state: str
    file: str
    kind: str


def run(work: Path, numbers: list[int], seed: int, jobs: int, until: float) -> Iterator[Verdict]:
    """Judges the mutations of these numbers."""
    specimens.make(work)
    usual = {(state, name): _undamaged(work, state, name) for state in ("whole", "cut") for name in specimens.COMMANDS}
    cases = _cases(work, max(numbers) + 1, seed)
    yield from spread(partial(_judge, work, usual, seed), [cases[number] for number in numbers], jobs=jobs, until=until)


def _cases(work: Path, count: int, seed: int) -> list[_Case]:
    """Every file under every kind of damage once, in random order; then more flips and cuts at other places."""
    draw = random.Random(f"mutations {seed}")
    targets = [
        (state, str(path.relative_to(work / state)))
        for state in ("whole", "cut")
        for path in sorted((work / state / "run").rglob("*"))
        if path.is_file() and path.name != ".lock"
    ]
    chosen = [(*target, kind) for target in targets for kind in _KINDS]
    draw.shuffle(chosen)
    while len(chosen) < count:
        chosen += [(*target, kind) for target in draw.sample(targets, len(targets)) for kind in ("flip", "truncate")]
    return [_Case(number, *each) for number, each in enumerate(chosen[:count])]


def _undamaged(work: Path, state: str, name: str) -> _Result:
    folder = work / "undamaged"
    results_of = []
    for _ in range(2):
        specimens.take(work / state, folder)
        ended = forked(protoat(*specimens.COMMANDS[name].split()), folder)
        results_of.append(_Result(ended, _left(name, folder)))
    first, second = results_of
    if first.ended.crashed or first.ended.code not in (0, 2):
        raise RuntimeError(f"{name} of an undamaged run ends with {first.ended.code}: {first.ended.err}")
    if different := differences(dict(first.left), dict(second.left)):
        raise RuntimeError(f"{name} of an undamaged run is not the same twice: {'; '.join(different)}")
    return first


def _left(name: str, folder: Path) -> dict[str, str]:
    """The result of a command that it leaves in files."""
    if name == "report":
        page = folder / "report.html"
        return {"report.html": _page(page.read_text())} if page.is_file() else {}
    if name not in ("evaluate", "train"):
        return {}
    found = results(folder / "run")
    if name == "evaluate":
        return {key: text for key, text in found.items() if key == "evaluation.json"}
    return {key: text for key, text in found.items() if _OF_TRAINING.fullmatch(f"run/{key}") and key != "run.json"}


def _page(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?", "", text)


def _judge(work: Path, usual: Mapping[tuple[str, str], _Result], seed: int, case: _Case) -> Verdict:
    damaged, folder, outside = (work / f"{name}-{case.number}" for name in ("damaged", "copy", "outside"))
    specimens.take(work / case.state, damaged)
    outside.write_text(_PRECIOUS)
    told = _damage(damaged / case.file, case, outside, random.Random(f"mutation {seed} {case.number}"))
    what = f"{case.state} {case.file}: {told}"
    failures = []
    for name, words in specimens.COMMANDS.items():
        specimens.take(damaged, folder)
        ended = forked(protoat(*words.split()), folder, Setting(powerless=True))
        failure = _failure(case, name, usual[case.state, name], ended, folder)
        if outside.read_text() != _PRECIOUS:
            failure = ("wrote outside", outside.name)
            outside.write_text(_PRECIOUS)
        if failure is not None:
            failures.append((failure[0], f"{name}: {failure[1]}"))
    for path in (damaged, folder):
        shutil.rmtree(path, ignore_errors=True)
    outside.unlink()
    if not failures:
        return Verdict(case.number, what)
    worst = min(failures, key=lambda each: _WORST.index(each[0]))[0]
    return Verdict(case.number, what, worst, " | ".join(f"({kind}) {text}" for kind, text in failures))


_WORST = ["wrote outside", "silently used", "traceback", "hang", "unnamed"]


def _damage(path: Path, case: _Case, outside: Path, draw: random.Random) -> str:
    """Damages a file; says how."""
    content = path.read_bytes()
    if case.kind == "flip" and content:
        bit = draw.randrange(8 * len(content))
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        return f"bit {bit} flipped"
    if case.kind == "truncate" and content:
        kept = draw.randrange(len(content))
        path.write_bytes(content[:kept])
        return f"cut to {kept} of {len(content)} bytes"
    if case.kind == "forbid":
        path.chmod(0)
        return "forbidden"
    path.unlink()
    if case.kind == "folder":
        path.mkdir()
        return "a folder in its place"
    if case.kind == "link":
        path.symlink_to(outside)
        return "a link to a file of the user in its place"
    path.write_bytes(bytes(len(content)) if case.kind == "zero" else b"")
    return "zeroed" if case.kind == "zero" else "emptied"


def _failure(case: _Case, name: str, usual: _Result, ended: Ended, folder: Path) -> tuple[str, str] | None:  # noqa: PLR0911
    """The kind of failure and what was seen, or None."""
    if ended.hung:
        return "hang", f"{ended.seconds:.0f} s of its own time"
    new = list((Counter(_lines(ended.err)) - Counter(_lines(usual.ended.err))).elements())
    last = new[-1] if new else ""
    left = _left(name, folder)
    if ended.crashed:
        return "traceback", last
    pages = [found.get("report.html", "") for found in (left, usual.left)]
    said, said_usually = (
        {*out.splitlines(), *page.splitlines()} for out, page in zip((ended.out, usual.ended.out), pages, strict=True)
    )
    named = any(_names(line, case.file) for line in (*new, *(said - said_usually)))
    if ended.code == 2 != usual.ended.code:
        errors = [line for line in new if ": error: " in line]
        if len(errors) != 1 or not _names(errors[0], case.file):
            return "unnamed", f"exit code 2, {len(errors)} lines of error: {last}"
        return None
    if ended.code not in (0, usual.ended.code):
        return "unnamed", f"exit code {ended.code}: {last}"
    usual_out, out = (
        "" if name == "evaluate" else re.sub(r"[\d.]+ MB", "", said) for said in (usual.ended.out, ended.out)
    )
    same = out == usual_out
    same = same and left == usual.left and ended.code == usual.ended.code
    if named:
        wrong = _numbers(out) - _numbers(usual_out)
        wrong |= {n for key in left for n in _numbers(left[key]) - _numbers(usual.left.get(key, ""))}
        return ("silently used", f"named, but says {sorted(wrong)[:3]}") if wrong else None
    if not same:
        return "silently used", _first_difference(usual, ended, left)
    if name == "train" and _OF_TRAINING.fullmatch(case.file) and case.state == "whole":
        return "silently used", "passed over by train"
    return None


def _lines(text: str) -> list[str]:
    """Lines of a log without the times in them."""
    return [re.sub(r"\b\d+(\.\d+)? s\b", "_ s", line) for line in text.splitlines() if line.strip()]


def _names(line: str, file: str) -> bool:
    """Whether a line names a file, or for a part of a checkpoint or of a measurement the folder of it."""
    path = Path(file)
    inner = path.parent.name if path.parent.name.isdecimal() or path.parent.name == "evaluation.partial" else path.name
    return path.name in line or inner in line


def _numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+\.\d+", text))


def _first_difference(usual: _Result, ended: Ended, left: Mapping[str, str]) -> str:
    if ended.code != usual.ended.code:
        return f"exit code {ended.code} in place of {usual.ended.code}"
    for before, now in zip(usual.ended.out.splitlines(), ended.out.splitlines(), strict=False):
        if before != now:
            return f"says {now.strip()!r} in place of {before.strip()!r}"
    return "; ".join(differences(dict(usual.left), dict(left))) or "says more or less"
