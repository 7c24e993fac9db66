"""Command lines that cannot be right: one line, exit code 2, the working folder as it was."""

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
from benchmarks.chaos.verdicts import Verdict, spread

__all__ = ["ABOUT", "COUNT", "run"]

COUNT = 300
ABOUT = "bad command lines, and good ones with an ASCII terminal or a full disk as output"

_SHORT = "--epochs 1 --schedule none --batch_size 256 --method.steps 1 --validation_size 50"
_NAN = ("nan", ".nan", "inf", "-.inf", "1e999", "x", "", "[]", "{}", "1,5", "0x", "\udcff")
_WHOLE = ("-1", "1.5", "nan", "inf", "1e999", "x", "", "[1]", "\udcff", "9" * 30, "9" * 5000, "-" + "9" * 30)
_COUNT = ("0", *_WHOLE)
_IMAGES = tuple(value for value in _WHOLE if value != "9" * 30)  # more images than there are means all of them
_NAME = ("nosuch", "", "\udcff", "a\nb", "\x1b[31mred", "../..", "x" * 5000, "os.system", "__import__", "-")
_RUN = (
    "nowhere", "file", "file/x", "empty", "loop", "broken", "/dev/null", "/dev/zero", "/dev/full", "/proc/self/mem",
    "", "x" * 300, "x" * 5000, "\udcff", "a\nb", "\x1b[31mred", "fifo", "binary", "utf16", "bomb", "deep", "huge",
    "scalar", "self", "/proc/1", "~nobody/x", "device",
)  # fmt: skip
_FILE = (
    "nowhere.yaml", "file", "empty", "loop", "broken", "/dev/null", "/dev/zero", "/dev/full", "/proc/self/mem", "fifo",
    "binary/recipe.yaml", "utf16/recipe.yaml", "bomb/recipe.yaml", "deep/recipe.yaml", "huge/recipe.yaml",
    "scalar/recipe.yaml", "x" * 300, "", "\udcff.yaml", "\x1b[31m.yaml",
)  # fmt: skip
_FOLDER_OUT = (
    "/proc/x", "/sys/x", "/dev/null", "/dev/null/x", "/dev/full", "/dev/full/x", "/proc/self/fd/x", "file", "file/x",
    "loop", "broken/x", "x" * 300, "x/" * 3000, "full", "device", "fifo", "",
)  # fmt: skip
_FILE_OUT = (
    "/proc/x.html", "/sys/x.html", "/dev/null/x.html", "empty", "file/x.html", "loop", "x" * 300 + ".html", "", ".",
    "/", "fifo", "report.exe", "/dev/zero",
)  # fmt: skip

# A line that is right but for what is added: its command, and options with values that they cannot have.
_GRAMMAR: dict[str, dict[str, tuple[str, ...]]] = {
    f"train {_SHORT} --out new": {
        "--config": _FILE + _NAME,
        "--epochs": _COUNT,
        "--batch_size": ("0", "-1", "1.5", "nan", "x", "", "[1]"),
        "--validation_size": _WHOLE,
        "--validate_every": _COUNT[:8],
        "--checkpoint_every": _COUNT[:8],
        "--seed": _WHOLE,
        "--weight": ("-1", *_NAN),
        "--norm_weight": ("-1", *_NAN),
        "--long_tail": ("0", "1", "-1", *_NAN),
        "--train_size": (*_COUNT[:9], "100000"),
        "--modes": ("os.system", "unknown", *_NAME),
        "--weighting": ("os.system", "dro", *_NAME),
        "--head": ("os.system", "torch.nn.Linear", *_NAME),
        "--select": _NAME,
        "--clip_norm": ("0", "-1", *_NAN),
        "--prototype_lr_factor": ("-1", *_NAN),
        "--optimizer.lr": ("-1", *_NAN),
        "--optimizer.momentum": ("-1", *_NAN),
        "--optimizer.weight_decay": ("-1", *_NAN),
        "--optimizer": ("LBFGS", "SparseAdam", "Optimizer", "torch.optim.Nothing", "torch.nn.Linear", *_NAME),
        "--model": ("torch.nn.Linear", "os.system", "builtins.dict", "torch.load", "protoat.Objective", *_NAME),
        "--method": ("Method", "os.system", "torch.load", "FreAT", *_NAME),
        "--method.steps": _COUNT[:9],
        "--method.step_size": ("-1", "0", "1/0", "8/0", *_NAN),
        "--method.loss": ("os.system", "torch.load", *_NAME),
        "--regularizer": ("os.system", "Regularizer", *_NAME),
        "--regularizer.prototypes_per_class": _COUNT[:9],
        "--regularizer.scale": ("-1", *_NAN),
        "--regularizer.gamma": ("-1", "0", *_NAN),
        "--threat.eps": ("0", "2", "1/0", "8", *_NAN),
        "--threat.norm": _NAME,
        "--data": ("os.system", "torch.load", *_NAME),
        "--groups": ("0", "-1", "3", "11", "1.5", "{}", "{a: [0]}", "[]", "\udcff"),
        "--augment.padding": _WHOLE[:8],
        "--schedule": ("os.system", *_NAME),
        "--averaging": ("2", "-1", "nan", *_NAME),
        "--precision": _NAME,
        "--compile": ("maybe", "2", ""),
        "--memory_format": _NAME,
        "--initialise.run": _RUN,
        "--out": (*_FOLDER_OUT, "other-recipe"),
        "--no-such-option": ("1",),
    },
    "pretrain --epochs 1 --schedule none --batch_size 512 --method.steps 1 --out new": {
        "--method": ("PGDAT", *_NAME),
        "--method.temperature": ("0", "-1", *_NAN),
        "--method.steps": _COUNT[:8],
        "--optimizer.lr": ("-1", *_NAN),
        "--out": _FOLDER_OUT,
        "--config": (*_FILE, "digits"),
        "--validation_size": ("50", "-1", "x"),
    },
    "evaluate run --n 20 --attacks clean": {
        "": _RUN,
        "--attacks": ("pgd0", "pgd-1", "pgd1.5", "pgd10@0", "pgd10@9", "pgd10@nan", "pgd10@1/0", "pgd10x0", *_NAME),
        "--n": ("0", *_IMAGES),
        "--batch-size": _COUNT[:9],
        "--budget-seconds": ("0", "-1", "nan", "x", "", "-inf"),
        "--weights": ("nowhere.safetensors", "/dev/zero", *_NAME),
        "--threat.eps": ("0", "2", "1/0", "nan", "x", ""),
        "--threat.norm": _NAME,
        "--head": _NAME,
        "--out": _FOLDER_OUT,
        "--mean": ("0.5", "x"),
        "--data": ("Digits", *_NAME[:4]),
    },
    "evaluate --data Digits --threat.eps 0.1 --out new --n 20 --attacks clean --model torchvision:resnet18": {
        "--weights": _RUN,
        "--model": (
            "os:system", "torch:load", "torchvision:nosuch", "timm:nosuch", "os:environ", "nosuch.module:f", ":", "a:",
            ":b", "builtins:exec", "json:loads", "", "\udcff:x", "torchvision:", "protoat:nosuch", "file:x",
        ),
        "--data": ("nosuch", "", "os.system", "\udcff"),
        "--mean": ("nan", "x", "0.5 0.5 0.5 0.5"),
        "--std": ("0", "-1", "nan", "inf", "x"),
        "--threat.eps": ("0", "nan", "x"),
        "--groups": ("3", "0", "x"),
    },
    "audit run --n 20 --checks A1": {
        "": _RUN,
        "--n": ("0", *_IMAGES),
        "--batch-size": _COUNT[:9],
        "--checks": ("A0", "Z9", *_NAME),
        "--surrogate": _RUN,
        "--weights": _NAME,
        "--out": _FOLDER_OUT,
    },
    "predict run file": {
        "": (*_NAME, "nowhere", "loop", "/dev/zero", "fifo"),
        "--weights": _NAME,
        "--batch-size": _COUNT[:9],
        "--format": _NAME,
        "--out": _FILE_OUT,
    },
    "export run --format safetensors --n 20 --out new": {
        "--format": _NAME,
        "--n": ("0", *_IMAGES),
        "--out": _FOLDER_OUT,
    },
    "push run": {"": _NAME},
    "pull hf://user/name": {"": _NAME, "--out": _FOLDER_OUT},
    "compare run": {"": (*_RUN, "run", "unmeasured")},
    "report run --images 20 --out new.html": {"": _RUN, "--images": _IMAGES, "--out": _FILE_OUT},
    "show": {"": _RUN},
    "ls": {"": ("nowhere", "file", "file/x", "loop", "broken", "/dev/null", "", "x" * 300, "\udcff", "fifo")},
    "rm --yes": {"": (*_RUN, ".", "/", "..", "link")},
    "gc": {"": ("nowhere", "file", "file/x", "loop", "broken", "/dev/null", "", "x" * 300, "\udcff", "fifo")},
    "table 2 --rows ours --columns MNIST --store new": {
        "--rows": _NAME,
        "--columns": _NAME,
        "--budget": (*_FILE, *_NAME),
        "--store": ("file", "file/x", "/proc/x", "/dev/null/x", "loop", "/sys/x", ""),
        "--jobs": _COUNT,
        "--seeds": _WHOLE,
        "--executor": _NAME,
        "--executor-options": ("x", ""),
        "--format": _NAME,
        "--out": _FILE_OUT[:7],
    },
    "table": {"": ("0", "12", "-1", "nan", *_NAME)},
    "figure": {"": ("0", "-1", "nan", *_NAME)},
    "figure 1 run --out new.html": {
        "": _RUN,
        "--images": ("-1", "nan", "x", "1.5"),
        "--attack": _NAME,
        "--classes": _NAME[:4],
        "--out": _FILE_OUT,
    },
    "demo": {"--out": ("/proc/x", "/dev/null/x", "file", "file/x", "loop", "/sys/x")},
    "data": {"": _NAME, "--root": (), "--download": ("", "nosuch")},
    "": {"": _NAME},
}  # fmt: skip
_GOOD = (
    "show run", "ls .", "compare run other", "report run --images 0", "data", "table 2 --dry-run", "table", "figure",
    "train --help", "evaluate --attacks.help", "evaluate run --n 20 --attacks clean", "gc . --dry-run", "--help",
    "audit run --n 20 --checks A1 C1", f"train {_SHORT} --out new", "figure 1 --out new.html", "--version",
    "show named/Zürich\x1b[31m", "ls named", "table 2 --rows ours --columns MNIST --format latex --dry-run",
)  # fmt: skip
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
    for base, options in _GRAMMAR.items():
        for option, values in options.items():
            for turn, value in enumerate(draw.sample(values, len(values))):
                rounds += [[] for _ in range(turn + 1 - len(rounds))]
                rounds[turn].append((_line(base.split(), option, value), ""))
    for output in _OUTPUTS:
        for turn, good in enumerate(draw.sample(_GOOD, len(_GOOD))):
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
        _must(place, f"train {_SHORT} --out {name} {more}")
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
