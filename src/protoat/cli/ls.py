"""``protoat ls``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from protoat.cli.printing import print_table
from protoat.cli.say import say
from protoat.errors import UserError
from protoat.evaluation import AttackReport
from protoat.evaluation.record import Judged
from protoat.recipes.parser import Parser
from protoat.runs.run import Run, list_runs
from protoat.storage.path_checks import check_is_folder

logger = logging.getLogger(__name__)


def main(args: list[str]) -> None:
    """Lists all runs below a folder."""
    parser = Parser("protoat ls")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs"), help="default runs")
    folder = parser.parse_args(args).folder
    check_is_folder(folder)
    rows = []
    for run in list_runs(folder):
        try:
            rows.append(_row(run))
        except UserError as error:  # of damaged weights
            logger.warning("left out: %s", error)
    if not rows:
        say(f"no runs below {folder}; protoat train makes one")
        return
    print_table(str(folder), ["run", "data", "method", "regularizer", "epochs", "measured"], rows, text=6)


def _row(run: Run) -> list[str]:
    aside = sorted(path.name for path in run.path.glob("evaluation-*.json"))
    also = [f"also measured, see protoat show: {', '.join(aside)}"] if aside else []
    return [str(run.path), *parts_of(run), _epochs(run), "\n".join(filter(None, [_measured(run), *also]))]


def parts_of(run: Run) -> list[str]:
    """Data, method with modes, and regularizer of a run in short."""
    names = [run.chosen(key).rpartition(".")[2] for key in ("data", "method", "regularizer")]
    if (modes := run.chosen("modes")) != "none":
        names[1] += f" with {modes.rpartition('.')[2]}"
    groups = run.choices.get("groups")
    if groups is not None:
        names[0] += f" in {groups if isinstance(groups, int | str) else len(groups)}"
    return names


def _epochs(run: Run) -> str:
    return run.progress + f", {run.state}" * bool(run.state)


def _measured(run: Run) -> str:
    if run.evaluation is None and (probe := run.probe) is not None:
        heads = probe.trained.items()
        return _lines(
            probe.subject,
            {f"{head} head, {name}": found for head, attacks in heads for name, found in attacks.items()},
        )
    if run.evaluation is None:
        return run.measuring if run.complete else ""
    if run.outdated:
        return f"of earlier weights; again: protoat evaluate {run.path}"
    return _lines(run.evaluation.subject, run.evaluation.entries)


def _lines(subject: Judged, entries: Mapping[str, AttackReport]) -> str:
    """What was measured, and what it came to."""
    total = next(iter(entries.values())).count.total if entries else 0
    radius = f", {subject.threat}" if subject.threat is not None else ""
    about = f"{subject.weights.removesuffix('.safetensors')} weights, {total} images{radius}:"
    return "\n".join([about, *(f"{name} {found.count.in_percent}" for name, found in entries.items())])
