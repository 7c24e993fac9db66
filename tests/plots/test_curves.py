"""Training curves hold what was recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protoat.plots.curves import training_curves
from protoat.recipes.reading import read_recipe
from protoat.runs.store import claim
from tests.whole import edit, epochs, weights


def test_curves_are_the_lines_of_the_log(ours: Path, plain: Path) -> None:
    lines = [json.loads(line) for line in (ours / "metrics.jsonl").read_text().splitlines()]
    figure = training_curves([ours, plain]).to_dict()
    traces = {trace["name"]: trace for trace in figure["data"]}
    assert list(traces["ours: loss"]["y"]) == [line["total"] for line in lines]
    for words, key in (("held out, clean", "clean"), ("held out, attacked", "robust")):
        assert list(traces[f"ours: {words}"]["y"]) == [100 * line["validation"][key] for line in lines]
    assert list(traces["ours: loss"]["x"]) == [1, 2]
    assert len(traces) == 6
    assert "ours: 2 of 2 epochs" in figure["layout"]["title"]["text"]


def test_an_epoch_that_was_taken_back_is_left_out_and_a_hostile_name_stays_text(tmp_path: Path) -> None:
    folder = tmp_path / "<img src=x>"
    claim(folder, read_recipe("digits-2").text, {}, {})
    edit(folder / "metrics.jsonl", epochs(1, total=2.0) + epochs(2, total=9.0, stopped="it fell"))
    weights(folder / "last.safetensors")
    figure = training_curves([folder]).to_dict()
    assert list(figure["data"][0]["y"]) == [2.0]
    title = figure["layout"]["title"]["text"]
    assert "<img" not in title and "&lt;img src=x&gt;: 1 of 30 epochs, stopped early" in title
    edit(folder / "metrics.jsonl", "")
    with pytest.raises(ValueError, match="holds no epoch yet"):
        training_curves([folder])


def test_no_run_and_a_run_named_twice_are_refused(ours: Path) -> None:
    for runs in ([], [ours, ours]):
        with pytest.raises(ValueError, match="name at least one run folder"):
            training_curves(runs)
