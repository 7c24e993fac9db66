"""``protoat export``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from protoat.cli.printing import print_table
from protoat.cli.say import say
from protoat.errors import UserError
from protoat.recipes.parser import Parser
from protoat.runs.claims import A_RUN, called
from protoat.runs.run import Run
from protoat.sharing.export import FORMATS, export

logger = logging.getLogger(__name__)


def main(args: list[str]) -> None:
    """Writes the model of a run as ONNX, torch or safetensors, compares the files with it, and adds a model card."""
    parser = Parser("protoat export")
    parser.add_argument("run", type=Path, help=A_RUN)
    parser.add_argument(
        "--format",
        nargs="+",
        type=Literal["onnx", "torch", "safetensors"],
        default=["onnx"],
        help="onnx (needs the extra export), torch (a .pt2 file of torch.export), safetensors; several may be named",
    )
    parser.add_argument("--out", type=Path | None, help="folder of the files; default exports/<name of the run>")
    parser.add_argument("--n", type=int, default=64, help="compare on this many test images")
    parser.add_trust()
    options = parser.parse_args(args)
    if options.n < 1:
        raise UserError(f"--n {options.n} must be at least 1")
    run = Run(options.run, trust=options.trust)
    out = options.out or Path("exports") / run.name
    logger.info("exporting %s and comparing each file with the model; seconds to minutes", run.path)
    found = export(run, out, formats=options.format, images=options.n)
    rows = [
        [FORMATS[form], f"{each.largest:.1g}", str(each.images), str(each.fooled), str(each.fooled_by_file)]
        for form, each in found.items()
    ]
    heads = ["file", "largest difference", "images", "both fooled by PGD-10", "both fooled by queries"]
    print_table(f"{called(run.path)}: exported files agree with the model", heads, rows)
    say(f"files and a model card are in {out}")
