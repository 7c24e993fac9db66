"""Programs in processes of their own, forked from one that has imported what takes longer than most of them: torch."""

from __future__ import annotations

import os
import runpy
import sys
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

# Commands that tests run, and what the first training and the first group of processes import.
_IMPORTED = [
    "torch._dynamo",
    "torch.distributed.algorithms.join",
    "torch.utils.tensorboard",
    "protoat.cli.evaluate",
    "protoat.cli.table",
    "protoat.cli.train",
    "protoat.paper.tables.fill",
]


def begin(
    *arguments: str | Path, log: Path, folder: Path | None = None, anew: bool = False, **environment: str
) -> BaseProcess:
    """Begins what ``python ARGUMENTS`` would: a file, or ``-m`` and a module.

    Args:
        log: file that gets all output.
        folder: working directory, by default the present one.
        anew: Python starts, imports and ends as it does for a user, for tests of that.
        environment: variables beside those of this process.
    """
    context = get_context("spawn" if anew else "forkserver")
    context.set_forkserver_preload(_IMPORTED)
    log.write_text("")
    settings = (dict(os.environ) | environment, folder or Path.cwd(), log)
    process = context.Process(target=_run, args=([*map(str, arguments)], *settings))
    process.start()
    return process


def _run(arguments: list[str], environment: dict[str, str], folder: Path, log: Path) -> None:
    import torch

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
