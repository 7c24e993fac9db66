"""``protoat pull``."""

from __future__ import annotations

from pathlib import Path

from protoat.cli.say import say
from protoat.recipes.parser import Parser
from protoat.runs.hub import Reference, pull


def main(args: list[str]) -> None:
    """Fetches a run from the Hugging Face Hub into a folder of its own, and compares it with its checksums."""
    parser = Parser("protoat pull")
    parser.add_argument("repo", type=str, metavar="USER/NAME", help="repository, at a branch, tag or commit: @REVISION")
    parser.add_argument("--out", type=Path | None, help="folder, which is made; default runs/<name>")
    options = parser.parse_args(args)
    reference = Reference.of(options.repo)
    out = options.out or Path("runs") / reference.repo.partition("/")[2]
    pull(reference, out)
    say(f"{out} holds {reference}; protoat show {out}")
