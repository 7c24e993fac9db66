"""``protoat gc``."""

from __future__ import annotations

from pathlib import Path

from protoat.cli.asking import agreed, check_somebody_can_answer
from protoat.cli.say import say
from protoat.errors import DiskError, UserError
from protoat.recipes.parser import Parser
from protoat.runs.cleanup import Waste, find_waste, remove
from protoat.storage.path_checks import check_is_folder


def main(args: list[str]) -> int:
    """Removes what no run needs any more: checkpoints of complete runs, partial files, old logs; 1 when told no."""
    parser = Parser("protoat gc")
    parser.add_argument("store", nargs="?", type=Path, default=Path("runs"), help="folder of runs; default runs")
    parser.add_argument(
        "--incomplete", action="store_true", help="also runs and measurements that have not ended; they begin anew then"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    options = parser.parse_args(args)
    check_is_folder(options.store)
    waste = find_waste(options.store, incomplete=options.incomplete)
    total = sum(each.bytes for each in waste)
    if waste and not (options.dry_run or options.yes):
        check_somebody_can_answer("what nobody needs")
    for each in waste:
        say(f"{each.path}: {each.reason}, {megabytes(each.bytes)}")
    if options.dry_run:
        say(f"{megabytes(total)} would be freed")
        return 0
    if waste and not options.yes and not agreed(f"remove these {len(waste)} for good?"):
        say("nothing was removed")
        return 1
    say(f"{megabytes(sum(map(_removed, waste)))} freed")
    return 0


def _removed(waste: Waste) -> int:
    """Bytes that were freed; what a process has begun to work on stays, and is said."""
    try:
        remove(waste.path)
    except DiskError:
        raise
    except UserError as error:
        say(str(error))
        return 0
    return waste.bytes


def megabytes(count: int) -> str:
    """Bytes in words.

    >>> megabytes(1_234_567), megabytes(400)
    ('1.2 MB', '400 bytes')
    """
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count} bytes"
