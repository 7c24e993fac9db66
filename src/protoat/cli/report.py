"""``protoat report``."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from protoat.cli.log_with import add_log_with, check_log_with, tell
from protoat.cli.progress import Shown
from protoat.cli.say import say
from protoat.errors import UserError
from protoat.recipes.parser import Parser
from protoat.runs.claims import A_RUN, find_run
from protoat.storage.parsing import parse_json, parse_yaml
from protoat.storage.path_checks import check_file
from protoat.storage.places import local_paths, machines


def main(args: list[str]) -> None:
    """Writes all that is known of runs into one HTML file; several runs are compared."""
    parser = Parser("protoat report")
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="RUN",
        help=f"{A_RUN}; or a folder that protoat evaluate --out has written. The first is compared with the others",
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
    private = _private(folders) if options.log_with else ()
    with Shown() as shown:
        out = report(folders, options.out, images=options.images, advance=shown.at)
    tell(options.log_with, folders[0], "report", [out], private=private)
    say(f"{out}: {out.stat().st_size / 1e6:.1f} MB, opens in a browser without a network")


def _private(folders: Sequence[Path]) -> set[str]:
    """What a page about runs may say of this machine and of those that made them: names, and where folders are."""
    here = (Path.home(), Path.cwd(), *folders, *(folder.resolve() for folder in folders))
    found = {platform.node(), *(str(path) for path in here if path.is_absolute())}
    for folder in folders:
        for path in (*folder.glob("*.json"), folder / "recipe.yaml"):
            if path.is_file() and not path.is_symlink():
                try:
                    record = (parse_yaml if path.suffix == ".yaml" else parse_json)(path.read_bytes())
                except ValueError as error:
                    raise UserError(f"{path} is damaged: {error}; restore it, or leave out --log_with") from error
                found |= {*local_paths(record), *machines(record)}
    return found
