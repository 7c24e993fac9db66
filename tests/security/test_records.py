"""Records that are damaged, forged or of another kind: each is named in a line, and none is silently used."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from protoat.cli import main
from protoat.storage.manifest import MANIFEST
from protoat.training.weights import is_whole
from tests.whole import edit

RECIPE = [
    *("--config", "digits-2", "--epochs", "2", "--validation_size", "50", "--batch_size", "256"),
    *("--method.steps", "1", "--model", "LeNet"),
]
SECONDS = 10  # of processor time, or of waiting for what does not come


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained, measured and audited."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", *RECIPE, "--out", str(folder)]) == 0
    assert main(["evaluate", str(folder), "--attacks", "clean", "fgsm", "--n", "40"]) == 0
    assert main(["audit", str(folder), "--n", "20", "--checks", "C15", "C16"]) in (0, 1)
    return folder


@pytest.fixture
def here(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of the run, ``run`` to be damaged and ``other`` beside it."""
    for name in ("run", "other"):
        shutil.copytree(whole, tmp_path / "runs" / name, symlinks=True)
    monkeypatch.chdir(tmp_path / "runs")
    return Path("run")


COMMANDS: dict[str, list[str]] = {
    "show": ["show", "run"],
    "ls": ["ls", "."],
    "evaluate": ["evaluate", "run", "--attacks", "clean", "--n", "40"],
    "train": ["train", *RECIPE, "--out", "run"],
    "report": ["report", "run", "--images", "20", "--out", "report.html"],
    "compare": ["compare", "run", "other"],
}


def quick(how: str) -> tuple[str, ...]:
    """Commands that the quick tests try on such damage; the slow ones try all others."""
    return ("show", "ls", "compare", "train") if how == "flipped" else ("show", "ls")


@contextmanager
def in_time() -> Iterator[None]:
    """Fails what hangs, and not what waits for a processor on a busy machine."""
    began = seen = time.process_time()

    def late(*_: object) -> None:
        nonlocal seen
        now = time.process_time()
        assert now - began < SECONDS, f"it took {now - began:.0f} s"
        assert now - seen > SECONDS / 100, "it waits"
        seen = now
        signal.alarm(SECONDS)

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def outcome(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[[str], tuple[int, str]]:
    """Exit code of a command, and what it printed and logged; figures of time are left out."""

    def run(command: str) -> tuple[int, str]:
        capsys.readouterr()
        caplog.clear()
        with in_time():
            code = main(COMMANDS[command])
        printed = capsys.readouterr()
        said = "\n".join(record.getMessage() for record in caplog.records)
        if code:
            assert len(printed.err.splitlines()) == 1, printed.err
        return code, re.sub(r"[\d,]+ │$|\d+\.\d s", "", printed.out, flags=re.M) + printed.err + said

    return run


_SAID: dict[str, str] = {}


def said_of_the_whole(command: str, outcome: Callable[[str], tuple[int, str]]) -> str:
    """What a command says of the run before it is damaged, the same in every test."""
    if command not in _SAID:
        _SAID[command] = outcome(command)[1]
    return _SAID[command]


def flipped(content: bytes) -> bytes:
    place = len(content) * 2 // 3
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def first_flipped(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "flipped": flipped,
    "first flipped": first_flipped,
    "cut": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "zeroed": lambda content: bytes(len(content)),
}
FILES = [
    "best.safetensors",
    "last.safetensors",
    "recipe.yaml",
    "run.json",
    "metrics.jsonl",
    "best.json",
    "evaluation.json",
    "audit.json",
    MANIFEST,
]


def mutate(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "a folder":
        path.unlink()
        path.mkdir()
    elif how == "a link":
        path.unlink()
        path.symlink_to("../other/" + path.name)
    elif how == "a loop":
        path.unlink()
        path.symlink_to(path.name)
    elif how == "a pipe":
        path.unlink()
        os.mkfifo(path)
    elif how == "zeros without end":
        path.unlink()
        path.symlink_to("/dev/zero")
    elif how == "forbidden":
        path.chmod(0)
    else:
        path.write_bytes(DAMAGE[how](content))


def judge(file: str, command: str, code: int, said: str, usual: str) -> None:
    """A command does what it did, where it does not need the file; else it names the file."""
    assert code in (0, 1, 2), said
    if said.strip() != usual.strip():
        assert file in said, f"{command} says nothing of {file}: {said}"


@pytest.mark.parametrize("how", [*DAMAGE, "a folder", "a link", "a loop", "a pipe", "zeros without end"])
@pytest.mark.parametrize("file", FILES)
def test_damage_is_named_or_does_not_matter(
    file: str, how: str, here: Path, outcome: Callable[[str], tuple[int, str]]
) -> None:
    commands = quick(how)
    usual = {command: said_of_the_whole(command, outcome) for command in commands}
    mutate(here / file, how)
    for command in commands:
        code, said = outcome(command)
        judge(file, command, code, said, usual[command])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to root")
@pytest.mark.parametrize("file", FILES)
def test_what_must_not_be_read_is_named(file: str, here: Path, outcome: Callable[[str], tuple[int, str]]) -> None:
    usual = outcome("show")[1]
    mutate(here / file, "forbidden")
    judge(file, "show", *outcome("show"), usual)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["flipped", "emptied", "a folder"])
@pytest.mark.parametrize("file", FILES)
def test_damage_is_named_by_every_other_command(
    file: str, how: str, here: Path, outcome: Callable[[str], tuple[int, str]]
) -> None:
    mutate(here / file, how)
    for command in [each for each in COMMANDS if each not in quick(how)]:
        code, said = outcome(command)
        if code:
            assert file in said


def test_last_weights_come_back_from_their_checkpoint(here: Path, outcome: Callable[[str], tuple[int, str]]) -> None:
    path = here / "last.safetensors"
    before = path.read_bytes()
    for how in ("flipped", "emptied"):
        mutate(path, how)
        code, said = outcome("train")
        assert code == 0 and "last.safetensors" in said and "damaged" in said
        assert path.read_bytes() == before
    shutil.rmtree(here / "checkpoints")
    mutate(path, "flipped")
    code, said = outcome("train")
    assert code == 2 and "last.safetensors is damaged" in said


def test_gc_keeps_the_checkpoints_of_damaged_weights(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.truncate(here / "last.safetensors", 0)
    assert not is_whole(here / "last.safetensors")
    main(["gc", ".", "--dry-run"])
    assert "run/checkpoints" not in capsys.readouterr().out.replace("other/checkpoints", "")


def damaged(record: dict[str, Any], *place: str, to: Any) -> dict[str, Any]:
    """A copy of a record with another value in one place."""
    copy: dict[str, Any] = json.loads(json.dumps(record))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = to
    return copy


FORGED: dict[str, tuple[str, tuple[str, ...], Any]] = {
    "more right than outcomes say": ("evaluation.json", ("attacks", "fgsm", "correct"), 40),
    "a worst case above an attack": ("evaluation.json", ("worst_case", "outcomes"), "1" * 40),
    "outcomes of letters": ("evaluation.json", ("attacks", "clean", "outcomes"), "x" * 40),
    "classes that do not sum": (
        "evaluation.json",
        ("attacks", "clean", "per_class"),
        {"0-4": {"correct": 1, "total": 1}},
    ),
    "modes without images": ("evaluation.json", ("attacks", "clean", "per_mode"), {}),
    "a count that is no number": ("evaluation.json", ("attacks", "clean", "total"), float("nan")),
    "a count that is infinite": ("evaluation.json", ("attacks", "clean", "correct"), float("inf")),
    "a negative count": ("evaluation.json", ("attacks", "clean", "correct"), -1),
    "a count of true": ("evaluation.json", ("attacks", "clean", "correct"), True),
    "attacks as a list": ("evaluation.json", ("attacks",), []),
    "an attack that is not there": ("evaluation.json", ("worst_case", "parameters", "attacks"), ["pgd999"]),
    "more images than there are": ("evaluation.json", ("test_images",), 1),
    "a radius that is no number": ("evaluation.json", ("subject", "threat", "eps"), "8/0"),
    "a negative radius": ("evaluation.json", ("subject", "threat", "eps"), -0.1),
    "lint that is no list": ("evaluation.json", ("lint",), {"a": 1}),
    "a check of unknown status": ("audit.json", ("checks",), [{"id": "A1", "status": "great"}]),
    "a verdict against the checks": ("audit.json", ("passed",), None),
    "an accuracy above 1": ("best.json", ("clean",), 1.5),
    "an epoch of text": ("best.json", ("epoch",), "two"),
    "a class too many": ("run.json", ("class_names",), ["a", "b", "c"]),
    "modes of a class too few": ("run.json", ("prototype_modes",), [["a"]]),
    "classes without end": ("run.json", ("num_classes",), 10**12),
    "an image without end": ("run.json", ("shape",), [1, 10**6, 10**6]),
    "sessions that are text": ("run.json", ("sessions",), "x"),
}


@pytest.mark.parametrize("forgery", FORGED)
def test_a_forged_record_is_refused_and_breaks_no_other_run(
    forgery: str, here: Path, outcome: Callable[[str], tuple[int, str]]
) -> None:
    file, place, value = FORGED[forgery]
    edit(here / file, damaged(json.loads((here / file).read_text()), *place, to=value))
    code, said = outcome("show")
    if file == "audit.json":
        code, said = outcome("report")
    assert code == 2 and f"{file} is damaged: " in said
    code, said = outcome("ls")
    assert code == 0 and "other" in said
    if file != "audit.json":
        assert f"left out: run/{file} is damaged" in said


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def bomb() -> str:
    lines = ["data: {class_path: protoat.data.Digits}", "a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    return "\n".join(lines)


TEXTS: dict[str, tuple[str, bytes]] = {
    "json nested": ("evaluation.json", nested(100_000).encode()),
    "json nested a little": ("run.json", nested(300).encode()),
    "json in utf-16": ("run.json", json.dumps({"num_classes": 2}).encode("utf-16")),
    "json of bytes": ("best.json", bytes(range(256))),
    "json of half a character": ("run.json", b'{"class_names": ["\\ud800"]}'),
    "json with a key twice": ("best.json", b'{"epoch": 1, "epoch": 2, "images": 1, "clean": 0.5}'),
    "json of a long number": ("best.json", b'{"epoch": ' + b"9" * 5000 + b"}"),
    "json that is a list": ("run.json", b"[1]"),
    "json that is too long": ("audit.json", b" " * (33 * 2**20)),
    "yaml bomb": ("recipe.yaml", bomb().encode()),
    "yaml that repeats itself": ("recipe.yaml", b"data: &a {class_path: x, init_args: *a}"),
    "yaml nested": ("recipe.yaml", nested(5000).encode()),
    "yaml in utf-16": ("recipe.yaml", "seed: 0".encode("utf-16")),
    "yaml of a date": ("recipe.yaml", b"data: {class_path: x}\nseed: 2020-01-01"),
    "yaml of an object": ("recipe.yaml", b"data: !!python/object/apply:os.system ['touch PWNED']"),
    "yaml of a wrong tag": ("recipe.yaml", b"data: {class_path: x}\nseed: !!bool 3"),
    "yaml with a long number": ("recipe.yaml", b"data: {class_path: x}\nseed: " + b"9" * 5000),
    "yaml with a radius that is none": ("recipe.yaml", b"data: {class_path: x}\nthreat: {eps: a/b, norm: linf}"),
    "yaml with a list for a class": ("recipe.yaml", b"data: {class_path: x}\nmethod: [1]"),
    "lines of text": ("metrics.jsonl", b"one\ntwo\n"),
    "lines out of order": ("metrics.jsonl", b'{"epoch": 2, "total": 1, "lr": 1, "seconds": 1}\n' * 2),
    "lines with infinite losses": ("metrics.jsonl", b'{"epoch": 1, "total": Infinity, "lr": 1, "seconds": 1}\n'),
    "more epochs than the recipe": ("metrics.jsonl", b'{"epoch": 99, "total": 1, "lr": 1, "seconds": 1}\n'),
}


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_record_is_named_in_a_line(text: str, here: Path, outcome: Callable[[str], tuple[int, str]]) -> None:
    file, content = TEXTS[text]
    (here / file).write_bytes(content)
    (here / MANIFEST).unlink()  # as of an earlier version
    command = "report" if file == "audit.json" else "show"
    code, said = outcome(command)
    assert code == 2 and f"{file}" in said
    code, said = outcome("ls")
    assert code == 0 and "other" in said
    assert not Path("PWNED").exists()


def test_records_of_an_earlier_version_are_read_and_marked(
    here: Path, outcome: Callable[[str], tuple[int, str]]
) -> None:
    (here / MANIFEST).unlink()
    code, said = outcome("show")
    assert code == 0 and "without checksum" in said and "evaluation.json" in said
    code, said = outcome("show")
    assert outcome("compare")[0] == 0


@pytest.mark.parametrize("how", ["flipped", "emptied", "a folder", "zeroed"])
def test_a_damaged_batch_is_measured_again(how: str, here: Path, caplog: pytest.LogCaptureFixture) -> None:
    measure = ["evaluate", "run", "--attacks", "clean", "fgsm", "pgd2", "--n", "40", "--batch-size", "10"]
    assert main([*measure, "--budget-seconds", "1e-9"]) == 0
    kept = sorted((here / "evaluation.partial").iterdir())
    assert kept
    before = {path: path.read_bytes() for path in kept}
    mutate(kept[0], how)
    code = main(measure)
    if how == "a folder":
        assert code == 2
        return
    assert code == 0 and f"{kept[0].name} is damaged, so its batch is measured again" in caplog.text
    assert before


def test_the_newest_checkpoint_is_skipped_where_it_is_damaged(
    here: Path, outcome: Callable[[str], tuple[int, str]]
) -> None:
    newest = sorted((here / "checkpoints").iterdir())[-1]
    before = (here / "last.safetensors").read_bytes()
    for name in ("last.safetensors", "last.json"):
        (here / name).unlink()
    (newest / "common.safetensors").unlink()
    (newest / "common.safetensors").symlink_to("/dev/zero")
    with pytest.warns(UserWarning, match="skipping a damaged checkpoint"):
        code, _ = outcome("train")
    assert code == 0 and (here / "last.safetensors").read_bytes() == before
