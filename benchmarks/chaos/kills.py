"""Kills at random moments and at file operations; afterwards the same command must end as if nothing had been."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.chaos.folders import differences, results, tree
from benchmarks.chaos.forks import Ended, forked, protoat
from benchmarks.chaos.strikes import How, strike
from benchmarks.chaos.verdicts import Verdict, spread

__all__ = ["ABOUT", "COUNT", "run"]

COUNT = 200
ABOUT = "kills, half at random moments and half at file operations, of train, pretrain, evaluate, table"

_TRAIN = "train --schedule none --batch_size 256 --method.steps 1 --out run"
_COMMANDS = (
    ("train", f"{_TRAIN} --epochs 3 --validation_size 50"),
    ("pretrain", "pretrain --epochs 2 --batch_size 512 --method.steps 1 --schedule none --out run"),
    ("evaluate", "evaluate run --attacks clean fgsm pgd3 square20 --n 60 --batch-size 12"),
    ("table", "table 2 --rows ours --columns MNIST --budget tiny.yaml --store store"),
    ("train", f"{_TRAIN.replace('--method.steps 1', '--method FreeAT --regularizer none')} --epochs 2"),
)
_BUDGET = """\
about: "digits, two epochs"
images: 40
attacks: {aa: fgsm, pgd100x10: pgd2, pgd10: pgd2}
train: &all
  data: {class_path: Digits}
  augment: {padding: 0, flip: false}
  model: {class_path: LeNet, init_args: {mean: none, std: none}}
  threat: {eps: 0.1, norm: linf}
  evaluation_threat: none
  schedule: none
  epochs: 2
  batch_size: 256
  validation_size: 50
pretrain:
  <<: *all
  optimizer: {class_path: Adam, init_args: {lr: 1.0e-3}}
  validation_size: 0
"""


@dataclass
class _Scene:
    """A command, what must be there before it, and what it leaves behind undisturbed."""

    name: str
    command: tuple[str, ...]
    ready: Path | None = None
    seconds: float = 0.0
    operations: list[str] = field(default_factory=list)
    expected: dict[str, str] = field(default_factory=dict)
    printed: str = ""

    def begin(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if self.ready is None:
            folder.mkdir(parents=True)
        else:
            shutil.copytree(self.ready, folder)
        (folder / "tiny.yaml").write_text(_BUDGET)


def run(work: Path, numbers: list[int], seed: int, jobs: int, until: float) -> Iterator[Verdict]:
    """Judges the kills of these numbers.

    Raises:
        RuntimeError: an undisturbed run fails or is not the same twice.
    """
    scenes = _scenes(work)
    for turn in sorted({_turn(number) for number in numbers}):
        _rehearse(scenes[turn], work)
    yield from spread(partial(_judge, scenes, work, seed), numbers, jobs=jobs, until=until)


def _scenes(work: Path) -> list[_Scene]:
    ready = work / "ready"
    ready.mkdir(parents=True)
    _must(forked(protoat(*f"{_TRAIN} --epochs 1 --validation_size 50".split()), ready))
    return [_Scene(name, tuple(words.split()), ready if name == "evaluate" else None) for name, words in _COMMANDS]


def _turn(number: int) -> int:
    """Which scene a number plays: the four commands in turn, training in two forms."""
    turn = number // 2 % 8
    return turn % 4 if turn != 4 else 4


def _rehearse(scene: _Scene, work: Path) -> None:
    """Runs it undisturbed, twice: what it leaves, how long it takes and which file operations it makes."""
    folder, log = work / "rehearsal", work / "operations"
    for log_to in (None, log):
        scene.begin(folder)
        ended = forked(_striking(scene.command, folder, 0, "before", log_to), folder)
        _must(ended)
        found = results(folder)
        if log_to is not None and (different := differences(scene.expected, found)):
            raise RuntimeError(f"{' '.join(scene.command)} is not the same twice: {'; '.join(different)}")
        scene.expected, scene.seconds, scene.printed = found, ended.seconds, ended.out
    scene.operations = log.read_text().splitlines()


def _striking(command: tuple[str, ...], folder: Path, at: int, how: How, log: Path | None = None) -> Callable[[], int]:
    def action() -> int:
        strike(folder, lambda number: number == at, how, log)
        return protoat(*command)()

    return action


def _judge(scenes: list[_Scene], work: Path, seed: int, number: int) -> Verdict:
    """Kills a command once, every fourth one again as it resumes, and lets it end; even numbers at random moments."""
    draw = random.Random(f"kill {seed} {number}")
    scene = scenes[_turn(number)]
    folder = work / f"kill-{number}"
    scene.begin(folder)
    told = [scene.name]
    for _ in range(1 + (draw.random() < 0.25)):
        told.append(_kill(scene, folder, draw, at_random=number % 2 == 0))
    what = ", ".join(told)
    state = sorted(tree(folder))
    ended = forked(protoat(*scene.command), folder)
    if ended.code:
        kind = "hang" if ended.hung else "traceback" if ended.crashed else "stuck"
        return Verdict(number, what, kind, f"{_last(ended)} | left by the kill: {' '.join(state)}")
    different = differences(scene.expected, results(folder))
    if scene.name == "table" and ended.out != scene.printed:
        different.append("the printed table differs")
    if different:
        return Verdict(number, what, "not bit-exact", "; ".join(different))
    shutil.rmtree(folder)
    return Verdict(number, what)


def _kill(scene: _Scene, folder: Path, draw: random.Random, *, at_random: bool) -> str:
    """Runs the command and kills it; says where."""
    if at_random:
        moment = draw.random() * scene.seconds
        forked(protoat(*scene.command), folder, kill_at=moment)
        return f"killed after {moment:.3f} s of its {scene.seconds:.1f}"
    last = 12 if draw.random() < 0.3 else len(scene.operations)  # the first writes make the folder a run
    at = draw.randint(1, last)
    how: How = draw.choice(("before", "half", "after"))
    forked(_striking(scene.command, folder, at, how), folder)
    name, _, path = scene.operations[at - 1].partition(" ")
    return f"killed {'in the middle of' if how == 'half' else how} operation {at}, {name} {Path(path).name}"


def _must(ended: Ended) -> None:
    if ended.code:
        raise RuntimeError(f"an undisturbed command failed: {ended.err}")


def _last(ended: Ended) -> str:
    lines = ended.err.strip().splitlines()
    return lines[-1] if lines else f"exit code {ended.code}"
