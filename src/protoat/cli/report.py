"""``protoat report``."""

from __future__ import annotations

from pathlib import Path

from protoat.cli.log_with import add_log_with, check_log_with, tell
from protoat.cli.progress import Shown
from protoat.cli.say import say
from protoat.errors import UserError
from protoat.recipes.parser import Parser
from protoat.runs.claims import find_run
from protoat.storage.path_checks import check_file

__all__ = ["main"]


def main(args: list[str]) -> None:
    """Writes all that is known of runs into one HTML file; several runs are compared."""
    parser = Parser("protoat report")
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="run folders, or folders that protoat evaluate --out has written; the first is compared with the others",
    )
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the file; default report.html")
    parser.add_argument(
        "--images",
        type=int,
        default=300,
        help="test images of gallery, map and retrieval; 0 leaves out whatever needs weights and images",
    )
    add_log_with(parser, "the page, in the run of the first folder")
    parser.add_trust()
    options = parser.parse_args(args)
    check_log_with(options.log_with)
    check_file(options.out)
    if options.out.suffix.lower() != ".html":
        raise UserError(f"--out {options.out} has to end in .html: a report is a page, which a browser prints to PDF")
    from protoat.reports.html import report  # drawing takes a second to import, and help needs none

    folders = list(map(find_run, options.folders))
    with Shown() as shown:
        out = report(folders, options.out, images=options.images, advance=shown.at)
    tell(options.log_with, folders[0], "report", [out])
    say(f"{out}: {out.stat().st_size / 1e6:.1f} MB, opens in a browser without a network")
