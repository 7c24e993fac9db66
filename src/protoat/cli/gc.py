"""``protoat gc``."""

from __future__ import annotations

from pathlib import Path

from protoat.experiments.garbage import find_waste, remove
from protoat.experiments.parser import Parser
from protoat.experiments.places import check_is_folder

__all__ = ["main", "megabytes"]


def main(args: list[str]) -> None:
    """Removes what no run needs any more: checkpoints of complete runs, partial files, logs and locks of the past."""
    parser = Parser("protoat gc")
    parser.add_argument("store", nargs="?", type=Path, default=Path("runs"), help="folder of runs; default runs")
    parser.add_argument(
        "--incomplete", action="store_true", help="also runs and measurements that have not ended; they begin anew then"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    options = parser.parse_args(args)
    check_is_folder(options.store)
    total = 0
    for waste in find_waste(options.store, incomplete=options.incomplete):
        try:
            if not options.dry_run:
                remove(waste.path)
        except ValueError as error:
            print(error)
        else:
            print(f"{waste.path}: {waste.reason}, {megabytes(waste.bytes)}")
            total += waste.bytes
    print(f"{megabytes(total)} {'would be freed' if options.dry_run else 'freed'}")


def megabytes(count: int) -> str:
    """Bytes in words.

    >>> megabytes(1_234_567), megabytes(400)
    ('1.2 MB', '400 bytes')
    """
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count} bytes"
