"""Run folders with everything in them, made once and copied for each mutation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.chaos.forks import Ended, forked, protoat
from benchmarks.chaos.strikes import strike

__all__ = ["COMMANDS", "make", "take"]

_SHORT = "--schedule none --batch_size 256 --method.steps 1 --validation_size 50"
# What judges a mutation of `run`; `other` stays as it is.
COMMANDS = {
    "show": "show run",
    "ls": "ls .",
    "evaluate": "evaluate run --attacks fgsm pgd2 --n 40 --batch-size 10",
    "train": f"train {_SHORT} --epochs 2 --out run",
    "report": "report run --images 10 --out report.html",
    "compare": "compare run other",
}


def make(work: Path) -> None:
    """Fills ``work/whole``, a complete run with all kinds of records, and ``work/cut``, one that was killed."""
    whole, cut = work / "whole", work / "cut"
    whole.mkdir()
    for words in (
        f"train {_SHORT} --epochs 2 --out run",
        f"train {_SHORT} --epochs 2 --regularizer none --out other",
        "evaluate other --attacks clean fgsm pgd2 --n 40 --batch-size 10",
        "evaluate run --attacks clean --n 40 --weights last",
        "evaluate run --attacks clean --n 40 --batch-size 10",
        "evaluate run --attacks clean --n 40 --head prototypes",
        "audit run --n 20 --checks A1 C1 C6",
    ):
        _must(forked(protoat(*words.split()), whole), words)
    _must(forked(_probe, whole), "probe")
    shutil.copytree(whole / "other", work / "spare")
    _kill(whole, COMMANDS["evaluate"], lambda folder: len(list(folder.glob("run/evaluation.partial/*.json"))) >= 4)
    cut.mkdir()
    _kill(cut, COMMANDS["train"], lambda folder: (folder / "run/checkpoints/00000010").exists())
    shutil.copytree(work / "spare", cut / "other")


def take(source: Path, folder: Path) -> None:
    """A fresh copy."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, symlinks=True)


def _probe() -> int:
    from protoat.runs.probe import probe_run

    probe_run("run", updates=2, limit=40, attacks=("clean",))
    return 0


def _kill(folder: Path, words: str, far_enough: Callable[[Path], bool]) -> None:
    """Kills a command at the first of its file operations at which it has come far enough."""

    def action() -> int:
        strike(folder, lambda _: far_enough(folder), "before")
        return protoat(*words.split())()

    forked(action, folder)


def _must(ended: Ended, what: str) -> None:
    if ended.code:
        raise RuntimeError(f"an undisturbed command failed: {what}: {ended.err}")
