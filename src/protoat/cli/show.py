"""``protoat show``."""

from __future__ import annotations

import os
from pathlib import Path

from protoat.cli.ls import parts_of
from protoat.cli.printing import linear_heads, measurements, print_table
from protoat.cli.say import say
from protoat.recipes.parser import Parser
from protoat.records.files import unlisted
from protoat.reports.records import changes_of, epochs_of
from protoat.runs.claims import A_RUN, called, find_run
from protoat.runs.records import Records
from protoat.runs.run import Run


def main(args: list[str]) -> None:
    """Shows one run: recipe, training, prototypes, evaluation; of any other model, its evaluation."""
    parser = Parser("protoat show")
    parser.add_argument(
        "run",
        type=Path,
        help=f"{A_RUN}; or a folder that protoat evaluate --out has written",
    )
    folder = find_run(parser.parse_args(args).run)
    if not os.path.lexists(folder / "recipe.yaml") and (record := Records(folder).evaluation) is not None:
        measurements(record.subject.more.get("model", str(folder)), record)
        _aside(folder)
        return
    run = Run(folder)
    run.check()
    run.warn_of_damage()
    data, method, regularizer = parts_of(run)
    say(f"{called(run.path)}: {data}, {method}, {regularizer}, seed {run.choices.get('seed', '?')}")
    say(run.recipe_text, lines=True)
    print_table("training", *epochs_of(run), names=())
    if rows := changes_of(run):
        print_table("prototypes in use, where a count changed", ["epoch", *run.fact("class_names")], rows, names=())
    if run.outdated:
        say(f"the evaluation below is of earlier weights; measure again: protoat evaluate {called(run.path)}")
    if run.evaluation is not None:
        measurements(called(run.path), run.evaluation)
    _aside(run.path)
    probe = run.probe
    if probe is not None:
        linear_heads(called(run.path), probe)
    if without := unlisted(run.path):
        say(f"without checksum, being of an earlier version: {', '.join(without)}")
    if not run.complete:
        say("not finished; the command that started it resumes it")
    elif run.evaluation is None and not (run.pretrains and probe is not None):
        say(f"not measured; {run.measuring}")


def _aside(folder: Path) -> None:
    """Measurements that are not the last one: what was measured, on what, and in which file that is."""
    for name, record in Records(folder).aside.items():
        subject = record.subject
        radius = f", {subject.threat}" if subject.threat is not None else ""
        about = f"{subject.weights}, {subject.images} images of {subject.data}{radius}"
        say(f"also measured, in {name}: {', '.join(record.attacks)}; {about}")
