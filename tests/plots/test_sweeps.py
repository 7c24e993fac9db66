"""Sweeps join what differs in one number only, and hold the counts of the record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from protoat.evaluation import Count
from protoat.evaluation.record import Evaluation
from protoat.paper.figures.number_of_prototypes import accuracy_against_prototypes
from protoat.plots.plot import Plot
from protoat.plots.sweeps import accuracy_against_eps, accuracy_against_steps
from protoat.runs.records import Records
from protoat.storage.manifest import write_record
from tests.whole import attacked, edit

from .reading import intervals, lines


def check(plot: Plot, name: str, x: list[float], counts: list[Count]) -> None:
    """The only line of a figure is of these counts."""
    assert lines(plot) == {name: (x, [100 * count.accuracy for count in counts])}
    for end in (0, 1):
        assert [bar[end] for bar in intervals(plot)[name]] == pytest.approx(
            [100 * each.interval[end] for each in counts]
        )


def test_eps_and_steps_are_drawn_from_the_record(ours: Path) -> None:
    record = Records(ours).evaluation
    assert record is not None
    counts = [record[name].count for name in ("clean", "pgd10@0.05", "pgd10", "pgd10@0.15")]
    check(accuracy_against_eps([ours]), "ours: pgd10", [0, 0.05, 0.1, 0.15], counts)
    check(accuracy_against_steps([ours]), "ours: pgdN", [2, 10], [record[name].count for name in ("pgd2", "pgd10")])


def record_of(attacks: dict[str, dict]) -> str:
    entries = {name: attacked(5, 9, **own) for name, own in attacks.items()}
    return json.dumps({"subject": {"weights": "w", "images": 9, "data": "x"}, "attacks": entries})


def test_attacks_that_differ_in_more_than_one_number_are_not_joined(tmp_path: Path) -> None:
    def pgd(**changes: object) -> dict:
        own = {"attack": "PGD", "norm": "linf", "eps": 0.1, "steps": 10, "step_size": 0.025, "restarts": 1}
        return own | changes

    attacks = {
        "pgd10": pgd(),
        "pgd20": pgd(steps=20, step_size=0.0125),
        "pgd20x5": pgd(steps=20, step_size=0.0125, restarts=5),
        "pgd40/0.001": pgd(steps=40, step_size=0.001),
        "pgd50@0.2": pgd(steps=50, step_size=0.01, eps=0.2),
        "square": {"attack": "Square", "norm": "linf", "eps": 0.1},
        "pgd10:next": {"attack": "Targeted", "rule": "next", "of": pgd()},
        "pgd20:next": {"attack": "Targeted", "rule": "next", "of": pgd(steps=20, step_size=0.0125)},
    }
    edit(tmp_path / "evaluation.json", record_of(attacks))
    drawn = lines(accuracy_against_steps([tmp_path]))
    assert {name.partition(": ")[2]: x for name, (x, _) in drawn.items()} == {"pgdN": [10, 20], "pgdN:next": [10, 20]}
    with pytest.raises(
        ValueError, match=r"no attack with several values of eps; measure them: protoat evaluate .* pgd10@"
    ):
        accuracy_against_eps([tmp_path])


def test_a_record_that_is_given_is_drawn_in_place_of_that_of_the_folder(ours: Path) -> None:
    content = json.loads((ours / "evaluation.json").read_text())
    content["attacks"]["pgd10@0.15"]["correct"] = 3
    content["subject"]["images"] = 1000
    record = Evaluation.from_json(content)
    for draw, place in ((accuracy_against_eps, -1), (accuracy_against_steps, None)):
        plot = draw([ours], records={ours: record})
        assert "1000 test images" in plot.about[0]
        if place is not None:
            assert lines(plot)["ours: pgd10"][1][place] == 3


def test_a_record_of_earlier_weights_is_refused(ours: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(ours, run)
    accuracy_against_eps([run])
    write_record(run / "best.safetensors", b"trained on since")
    for draw in (accuracy_against_eps, accuracy_against_steps, accuracy_against_prototypes):
        with pytest.raises(ValueError, match="is of earlier weights; measure again: protoat evaluate"):
            draw([run])


def test_a_folder_without_record_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no evaluation\.json; measure it first: protoat evaluate"):
        accuracy_against_eps([tmp_path])
