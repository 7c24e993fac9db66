"""Tries to break protoat: ``python -m benchmarks.chaos [kills|mutations|commands|calls] [--count N] [--seed S]``.

kills        SIGKILL at random moments and at file operations, then the same command again: it must end bit-exact.
mutations    Files of run folders are damaged; every command must name the file, or say what it would have said.
commands     Command lines that cannot be right: one line, exit code 2, nothing written.
calls        Library calls that cannot be right: a TypeError or ValueError of one line, nothing written.

Prints a table and each failure with the command that repeats it; the exit code is 1 where there was one.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from importlib import import_module
from pathlib import Path

from benchmarks.chaos.verdicts import Verdict

_PARTS = ("kills", "mutations", "commands", "calls")


def main() -> int:
    """Runs the chosen parts; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(_PARTS)}; default all")
    parser.add_argument("--count", type=int, help="cases of each part; default 200, 400, 300 and 120")
    parser.add_argument("--seed", type=int, default=0, help="draws other cases; default 0")
    parser.add_argument("--only", type=int, nargs="+", help="only cases of these numbers")
    parser.add_argument("--minutes", type=float, default=60, help="begin no case of a part after this; default 60")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time; default 2")
    parser.add_argument("--out", type=Path, help="also write the failures, by kind, to files in this folder")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(_PARTS):
        parser.error(f"unknown part {min(unknown)!r}; there are {', '.join(_PARTS)}")
    os.environ.update(OMP_NUM_THREADS="1", COLUMNS="160", PROTOAT_DATA="/nonexistent")
    from rich.console import Console
    from rich.table import Table

    from benchmarks.chaos.forks import preload

    preload()
    table = Table("part", "cases", "passed", "failed", "seconds", title=_machine())
    failed = 0
    for name in options.parts or _PARTS:
        part, started = import_module(f"benchmarks.chaos.{name}"), time.monotonic()
        numbers = options.only or list(range(options.count or part.COUNT))
        with tempfile.TemporaryDirectory(prefix="protoat-chaos-") as work:
            Path(work).chmod(0o755)
            os.environ["PROTOAT_CACHE"] = str(Path(work) / "cache")
            until = started + 60 * options.minutes
            verdicts = []
            for verdict in part.run(Path(work), numbers, options.seed, options.jobs, until):
                verdicts.append(verdict)
                if options.out is not None and verdict.kind is not None:
                    _write(options.out / f"found-{name}.md", _report(name, options.seed, verdicts))
        bad = sum(verdict.kind is not None for verdict in verdicts)
        failed += bad
        cases = str(len(verdicts)) + f" of {len(numbers)}, out of time" * (len(verdicts) < len(numbers))
        seconds = f"{time.monotonic() - started:.0f}"
        table.add_row(f"{name}: {part.ABOUT}", cases, str(len(verdicts) - bad), str(bad), seconds)
        report = _report(name, options.seed, verdicts)
        if bad:
            print(report, flush=True)
        if options.out is not None:
            _write(options.out / f"found-{name}.md", report)
    Console(width=120).print(table)
    return int(failed > 0)


def _report(part: str, seed: int, verdicts: list[Verdict]) -> str:
    """The failures by kind, each with the command that repeats it."""
    bad = sorted((each for each in verdicts if each.kind is not None), key=lambda each: each.number)
    lines = [f"# {part}: {len(bad)} of {len(verdicts)} fail"]
    for kind, count in Counter(each.kind for each in bad).most_common():
        lines.append(f"\n## {kind}: {count}\n")
        for each in bad:
            if each.kind == kind:
                redo = f"python -m benchmarks.chaos {part} --seed {seed} --only {each.number}"
                lines.append(f"* {each.what}\n  {each.found}\n  {redo}")
    return "\n".join(lines)


def _write(path: Path, text: str) -> None:
    path.write_text(text + "\n", errors="backslashreplace")


def _machine() -> str:
    import torch

    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    return f"{model}, {os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
