"""How much of the package a command passes: functions, files, and how often it reads weights and recipe.

``python -m benchmarks.calls`` trains a small run in one process, measures it in another, and prints a line for each.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, FrameType
from typing import Any, NamedTuple

import protoat

PACKAGE = str(Path(protoat.__file__).parent)
TRAIN = ("train", "--config", "digits-2", "--epochs", "1", "--method.steps", "1", "--schedule", "none", "--out", "RUN")
EVALUATE = ("evaluate", "RUN", "--attacks", "clean", "pgd2", "--n", "20")


class Passed(NamedTuple):
    """What a command passed.

    Attributes:
        functions, files: of the package, each counted once; what importing runs does not count.
        reads: how often each file of the run was opened to be read, by name.
    """

    functions: int
    files: int
    reads: dict[str, int]


@contextmanager
def reads_of(folder: Path) -> Iterator[Counter[str]]:
    """Counts how often each file of a run is opened to be read meanwhile, by name."""
    reads: Counter[str] = Counter()
    inside = {path.name for path in folder.glob("*")} | {"recipe.yaml", "last.safetensors", "best.safetensors"}
    counts = True

    def opened(event: str, arguments: tuple[Any, ...]) -> None:
        if counts and event == "open" and isinstance(arguments[0], str) and isinstance(arguments[2], int):
            path, writes = Path(arguments[0]), arguments[2] & 0b11
            ours = str(path.parent) in (".", str(folder))  # a file in an open folder goes by its name alone
            if not writes and ours and path.name in inside:
                reads[path.name] += 1

    sys.addaudithook(opened)  # for good
    try:
        yield reads
    finally:
        counts = False


def passed(args: list[str], folder: Path) -> Passed:
    """Runs a command in this process, which watches it from then on.

    Args:
        args: of ``protoat``.
        folder: the run, whose files are counted.
    """
    from protoat.cli import main

    codes: set[CodeType] = set()

    def called(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        # Bodies of modules and classes run when they are imported.
        if event == "call" and code.co_filename.startswith(PACKAGE) and code.co_flags & inspect.CO_OPTIMIZED:
            codes.add(code)

    with reads_of(folder) as reads:
        sys.setprofile(called)
        try:
            assert main(args) == 0
        finally:
            sys.setprofile(None)
    functions = {code for code in codes if not code.co_name.startswith("<")}
    return Passed(len(functions), len({code.co_filename for code in codes}), dict(reads))


def in_a_process(args: tuple[str, ...], folder: Path) -> Passed:
    """The same of a command in a process of its own; ``RUN`` stands for the folder."""
    words = [str(folder) if word == "RUN" else word for word in args]
    command = [sys.executable, "-m", "benchmarks.calls", str(folder), *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Passed(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Prints what training and measuring a run pass."""
    with TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        for args in (TRAIN, EVALUATE):
            found = in_a_process(args, run)
            reads = ", ".join(f"{name} {times}" for name, times in sorted(found.reads.items()))
            print(f"protoat {args[0]}: {found.functions} functions in {found.files} files; read: {reads}")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        print(json.dumps(passed(sys.argv[2:], Path(sys.argv[1]))._asdict()))
    else:
        main()
