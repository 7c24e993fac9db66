"""One command or call in a forked child: limits of time and memory, its output, and how it ended.

The parent imports torch and protoat once and never trains, so a child starts in milliseconds and autograd has no
threads that a fork would lose.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import io
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Ended", "Setting", "forked", "preload", "protoat"]

CPU_SECONDS = 10  # of its own time; what takes longer hangs
IDLE_SECONDS = 30  # without asking for a processor; on a busy machine git may take some
MEMORY = 3 << 30  # bytes beyond what the parent has


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        code: exit code, or minus the number of the signal that ended it.
        out, err: what it printed.
        seconds: of its own processor time.
        hung: whether it was ended because it took too long.
    """

    code: int
    out: str
    err: str
    seconds: float
    hung: bool

    @property
    def crashed(self) -> bool:
        """Whether it printed a traceback or was ended by a signal of its own."""
        return "Traceback (most recent call last)" in self.err or (self.code < 0 and not self.hung)


def preload() -> None:
    """Imports what commands need, so that no child pays for it again."""
    import torch

    torch.set_num_threads(1)
    from protoat.cli import _COMMANDS

    for name in _COMMANDS:
        importlib.import_module(f"protoat.cli.{name}")
    for name in (
        "protoat.paper.tables.fill",
        "protoat.paper.figures.catalogue",
        "protoat.runs.probe",
        "protoat.reports.html",
        "protoat.paper.render.latex",
        "protoat.paper.render.markdown",
        "protoat.paper.render.csv",
        "protoat.paper.render.terminal",
        "sklearn.datasets",
        "torch._dynamo",  # of the first optimizer
        "torch.utils.tensorboard",
        "openTSNE",
        "jinja2",
        "PIL.Image",
    ):
        importlib.import_module(name)
    from protoat.recipes.reading import shared_parser

    shared_parser()
    gc.collect()
    gc.freeze()  # or each child would copy all of it when it collects garbage


def protoat(*words: str) -> Callable[[], int]:
    """The command line as an action for `forked`."""

    def action() -> int:
        from protoat.cli import main

        sys.argv = ["protoat", *words]
        return main(list(words))

    return action


@dataclass(frozen=True)
class Setting:
    """What a child finds itself in.

    Attributes:
        powerless: root has no more rights than the owner of its files.
        encoding: of its output.
        stdout: where its output goes instead, such as /dev/full.
        unread: its output goes into a pipe whose reader has left.
        cpu_seconds: what takes longer hangs.
    """

    powerless: bool = False
    encoding: str = "utf-8"
    stdout: Path | None = None
    unread: bool = False
    cpu_seconds: int = CPU_SECONDS


_USUAL = Setting()


def forked(
    action: Callable[[], int], folder: Path, setting: Setting = _USUAL, *, kill_at: float | None = None
) -> Ended:
    """Runs an action in a child process.

    Args:
        action: returns the exit code.
        folder: working directory of the child.
        setting: rights, limits and output.
        kill_at: SIGKILL once it has used so many seconds of processor time.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if not child:
            _child(action, folder, setting, out.fileno(), err.fileno())
        status, used, late = _watch(child, kill_at)
        seconds = used.ru_utime + used.ru_stime
        code = os.waitstatus_to_exitcode(status)
        for file in (out, err):
            file.seek(0)
        hung = late or code == -signal.SIGXCPU
        return Ended(code, out.read().decode(errors="replace"), err.read().decode(errors="replace"), seconds, hung)


def _watch(child: int, kill_at: float | None) -> tuple[int, resource.struct_rusage, bool]:
    """Waits for a child; kills it where it waits for ever, or at the moment asked for."""
    awake = looked = time.monotonic()
    while True:
        pid, status, used = os.wait4(child, os.WNOHANG)
        if pid:
            return status, used, False
        now = time.monotonic()
        if now - looked > 0.2:
            looked = now
            awake = awake if _sleeps(child) else now
        late = now - awake > IDLE_SECONDS
        if late or (kill_at is not None and _processor_seconds(child) >= kill_at):
            os.kill(child, signal.SIGKILL)
            _, status, used = os.wait4(child, 0)
            return status, used, late
        time.sleep(0.001 if kill_at is not None else 0.004)


def _sleeps(process: int) -> bool:
    """Whether it waits for something; one that waits for a processor on a busy machine does not sleep."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "SD"
    except (OSError, IndexError):
        return False


def _drop_capabilities() -> None:
    """Of Linux; without them a file that nobody may read is closed to root as well."""
    header = struct.pack("Ii", 0x20080522, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")


def _processor_seconds(process: int) -> float:
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _child(action: Callable[[], int], folder: Path, setting: Setting, out: int, err: int) -> None:
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out if setting.stdout is None else os.open(setting.stdout, os.O_WRONLY), 1)
        os.dup2(err, 2)
        if setting.unread:
            reading, writing = os.pipe()
            os.dup2(writing, 1)
            os.close(reading)
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding=setting.encoding)
        sys.stderr = io.TextIOWrapper(
            io.FileIO(2, "w", closefd=False), encoding=setting.encoding, errors="backslashreplace", write_through=True
        )
        resource.setrlimit(resource.RLIMIT_CPU, (setting.cpu_seconds, setting.cpu_seconds + 5))
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if setting.powerless:
            _drop_capabilities()
        code = action()
        sys.stdout.flush()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        os._exit(code)
