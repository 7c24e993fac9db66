"""Training curves hold what was recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from protoat.plots.curves import training_curves
from protoat.recipes.reading import read_recipe
from protoat.runs.store import claim
from tests.whole import edit, epochs, weights

from .reading import lines, words


def test_legends_of_many_runs_leave_room_for_their_lines(plain: Path, tmp_path: Path) -> None:
    plot = training_curves([shutil.copytree(plain, tmp_path / f"run {number}") for number in range(6)])
    figure = plot.axes[0].figure
    figure.canvas.draw()
    assert min(axes.get_window_extent().height for axes in plot.axes) > 0.8 * figure.dpi
    assert all(float(tick).is_integer() for tick in plot.axes[1].get_xticks())


def test_curves_are_the_lines_of_the_log(ours: Path, plain: Path) -> None:
    logged = [json.loads(line) for line in (ours / "metrics.jsonl").read_text().splitlines()]
    plot = training_curves([ours, plain])
    drawn = lines(plot)
    assert drawn["ours: loss"] == ([1, 2], [line["total"] for line in logged])
    for name, key in (("held out, clean", "clean"), ("held out, attacked", "robust")):
        assert drawn[f"ours: {name}"] == ([1, 2], [100 * line["validation"][key] for line in logged])
    assert len(drawn) == 6
    assert "ours: 2 of 2 epochs" in plot.about


def test_an_epoch_that_was_taken_back_is_left_out_and_a_hostile_name_stays_text(tmp_path: Path) -> None:
    folder = tmp_path / "<img src=x>"
    for place in (folder, tmp_path / "$x^2$"):
        claim(place, read_recipe("digits-2").text, {}, {})
        edit(place / "metrics.jsonl", epochs(1, total=2.0) + epochs(2, total=9.0, stopped="it fell"))
        weights(place / "last.safetensors")
    plot = training_curves([folder, folder.parent / "$x^2$"])
    assert lines(plot)["<img src=x>: loss"] == ([1], [2.0])
    assert plot.about[0] == "<img src=x>: 1 of 30 epochs, stopped early"
    assert {"&lt;img src=x&gt;: loss", "$x^2$: loss"} <= set(words(plot))
    edit(folder / "metrics.jsonl", "")
    with pytest.raises(ValueError, match="holds no epoch yet"):
        training_curves([folder])


@pytest.mark.parametrize("ends", [("0-1a2b", "1-3c4d"), ("0" + 50 * "b", "1" + 50 * "b")])
def test_runs_whose_long_names_begin_alike_are_all_drawn(tmp_path: Path, ends: tuple[str, str]) -> None:
    folders = [tmp_path / f"{'a' * 50}{end}" for end in ends]
    for folder, total in zip(folders, (2.0, 3.0), strict=True):
        claim(folder, read_recipe("digits-2").text, {}, {})
        edit(folder / "metrics.jsonl", epochs(1, total=total))
    plot = training_curves(folders)
    assert [heights for _, heights in lines(plot).values()] == [[2.0], [3.0]] and len(set(plot.about)) == 2


def test_no_run_and_a_run_named_twice_are_refused(ours: Path) -> None:
    for runs in ([], [ours, ours]):
        with pytest.raises(ValueError, match="name at least one run folder"):
            training_curves(runs)
