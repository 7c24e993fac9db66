"""``protoat rm``."""

from __future__ import annotations

from protoat.cli.asking import agreed, check_somebody_can_answer
from protoat.cli.gc import megabytes
from protoat.cli.say import say
from protoat.errors import UserError
from protoat.recipes.parser import Parser
from protoat.runs.claims import find_run, is_elsewhere
from protoat.runs.cleanup import check_removable, remove, size


def main(args: list[str]) -> int:
    """Removes run folders with all they hold; 1 where the user says no."""
    parser = Parser("protoat rm")
    parser.add_argument(
        "runs", nargs="+", type=str, metavar="RUN", help="run folders, or runs below runs by name or digest"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    options = parser.parse_args(args)
    for run in options.runs:
        if is_elsewhere(run):
            raise UserError(f"{run} is no run folder of yours, and its copy in the cache stays; name run folders")
    named = map(find_run, options.runs)
    runs = list(dict.fromkeys(run if run.is_symlink() else run.resolve() for run in named))
    for run in runs:
        check_removable(run)
    if not options.yes:
        check_somebody_can_answer("runs")
    for run in runs:
        say(f"{run}: {megabytes(size(run))}")
    if not options.yes and not agreed(f"remove {len(runs)} run{'s' * (len(runs) > 1)} for good?"):
        say("nothing was removed")
        return 1
    for run in runs:
        remove(run)
        say(f"removed {run}")
    return 0
