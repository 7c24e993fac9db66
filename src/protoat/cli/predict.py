"""``protoat predict``."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from protoat.cli.printing import print_table
from protoat.cli.say import keep, say
from protoat.data.listing import in_order
from protoat.data.picture import is_picture
from protoat.errors import MissingFileError, UserError
from protoat.evaluation import Predictions
from protoat.names import csv_cell
from protoat.recipes.parser import Parser
from protoat.runs.claims import A_RUN, called
from protoat.runs.run import Run
from protoat.runs.store import write
from protoat.runs.subject_options import check_weights_of_run
from protoat.storage.path_checks import check_file

_FORMATS = {".csv": "csv", ".json": "json"}
_NAMES = ("picture", "class", "nearest prototype")


def main(args: list[str]) -> None:
    """Says the class of pictures, with its probability and the nearest prototype."""
    parser = Parser("protoat predict")
    parser.add_argument("run", type=Path, help=A_RUN)
    parser.add_argument(
        "pictures",
        nargs="+",
        type=str,
        metavar="PICTURE",
        help="files, folders (all pictures in them and below), patterns such as 'shots/*.png', or - for a list of "
        "files, one a line, on the standard input",
    )
    parser.add_argument("--weights", type=str | None, help="best or last; default: best on held-out images, else last")
    parser.add_argument("--batch-size", type=int, default=256, help="pictures at once")
    parser.add_argument(
        "--format",
        type=Literal["table", "csv", "json"] | None,
        help="default: what the name of --out ends in (.csv, .json), else table; json holds every probability",
    )
    parser.add_argument("--out", type=Path | None, help="write to this file")
    parser.add_trust()
    options = parser.parse_args(args)
    if options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size} must be at least 1")
    check_weights_of_run(options.weights)
    form = options.format or _FORMATS.get("" if options.out is None else options.out.suffix.lower(), "table")
    if options.out is not None:
        check_file(options.out)
        if form == "table":
            raise UserError(f"--out {options.out}: a table goes to the terminal; write --format csv or json")
    paths = list(_paths(options.pictures))
    run = Run(options.run)
    found = run.predict(paths, which=options.weights, batch_size=options.batch_size)
    if form == "table":
        keep("predictions", _plain(paths, found))
        print_table(f"{called(run.path)}: {_counted(paths)}", *_table(paths, found), text=2, names=_NAMES)
        return
    text = _csv(paths, found) if form == "csv" else json.dumps(_plain(paths, found), indent=1) + "\n"
    if options.out is None:
        say(text, end="", lines=True)
        return
    write(options.out, text)
    say(f"predictions for {_counted(paths)} are in {options.out}")


def _counted(paths: Sequence[Path]) -> str:
    return f"{len(paths)} picture{'s' * (len(paths) != 1)}"


def _paths(words: Sequence[str]) -> Iterator[Path]:
    """The files that the words of a command name.

    Raises:
        ValueError: one names none.
    """
    for word in words:
        if word == "-":
            yield from (Path(line) for line in sys.stdin.read().splitlines() if line.strip())
            continue
        path = Path(word)
        if path.is_dir():
            found = sorted(_below(path), key=lambda file: [*map(in_order, file.parent.parts), in_order(file.stem)])
            if not found:
                raise UserError(f"folder {path} holds no pictures")
        elif path.exists() or not glob.has_magic(word):
            found = [path]
        else:
            found = [Path(name) for name in sorted(glob.glob(word, recursive=True)) if is_picture(name)]  # noqa: PTH207
        if not found or not all(file.is_file() for file in found):
            raise MissingFileError(f"there is no picture {word}")
        yield from found


def _below(folder: Path) -> Iterator[Path]:
    """Pictures in a folder and below; hidden ones are left out and links are not followed."""
    for home, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if not name.startswith(".")]
        yield from (Path(home) / name for name in names if is_picture(name) and not name.startswith("."))


def _table(paths: Sequence[Path], found: Predictions) -> tuple[list[str], list[list[str]]]:
    prototypes = found.places is not None
    rows = [
        [str(path), each.class_name, f"{each.probability:.3f}", *([each.prototype or ""] if prototypes else [])]
        for path, each in zip(paths, found, strict=True)
    ]
    return ["picture", "class", "probability", *(["nearest prototype"] if prototypes else [])], rows


def _csv(paths: Sequence[Path], found: Predictions) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["picture", "class", "probability", "prototype"])
    for path, each in zip(paths, found, strict=True):
        cells = [str(path), each.class_name, f"{each.probability:.6f}", each.prototype or ""]
        writer.writerow(map(csv_cell, cells))
    return text.getvalue()


def _plain(paths: Sequence[Path], found: Predictions) -> list[dict[str, Any]]:
    return [{"picture": str(path), **each} for path, each in zip(paths, found.to_json(), strict=True)]
