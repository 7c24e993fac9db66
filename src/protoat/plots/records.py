"""Reads the evaluation a plot is drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from protoat.errors import UserError
from protoat.evaluation.record import Evaluation
from protoat.runs.claims import called
from protoat.runs.records import Records
from protoat.runs.run import Run


def measured(folder: Path | str, known: Mapping[Path, Evaluation] | None = None) -> Evaluation:
    """The evaluation of a folder: the known one, else its ``evaluation.json``.

    Raises:
        ValueError: there is none, it is damaged, or it is of weights that training has replaced since.
    """
    path = Path(folder)
    if known and path in known:
        return known[path]
    if not path.is_dir():
        raise UserError(f"there is no folder {path}")
    record, name = Records(path).evaluation, called(path)
    if record is None:
        raise UserError(f"{name} has no evaluation.json; measure it first: protoat evaluate {name}")
    if (path / "recipe.yaml").exists() and Run(path).outdated:
        raise UserError(f"the evaluation of {name} is of earlier weights; measure again: protoat evaluate {name}")
    return record
