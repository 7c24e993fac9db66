"""Where no modes are known, classes are called classes: in words, tables, figures and trackers; records keep keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protoat.cli.log_with import numbers_of
from protoat.plots.gallery import attacked_images
from protoat.plots.modes import accuracy_of_modes
from protoat.plots.retrieval import retrieved_images
from protoat.plots.transitions import transition_map
from protoat.recipes.reading import read_recipe
from protoat.runs.measure import measure
from protoat.runs.run import Run
from protoat.runs.train import train

SHORT = ["--epochs", "1", "--validation_size", "200", "--method", "Standard", "--schedule", "none"]
OF_CHOICE = ["--select", "worst-mode", "--regularizer", "none"]


@pytest.mark.parametrize(("recipe", "kind"), [("digits", "class"), ("digits-2", "mode")])
def test_the_worst_is_called_what_it_is(recipe: str, kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(read_recipe(recipe, [*SHORT, *OF_CHOICE]), folder, progress=False)
    run = Run(folder)
    assert run.best is not None
    assert f"worst {kind} " in str(run.best.held_out)
    assert "worst_mode" in json.loads((folder / "best.json").read_text())
    record = measure(run.subject(), ["clean", "fgsm"], limit=60)
    assert ("worst mode" in str(record)) == (kind == "mode")
    assert any("/mode/" in name for name in numbers_of(record)) == (kind == "mode")
    (axes,) = (plot := accuracy_of_modes(folder)).axes
    assert plot.title == f"Accuracy of each {kind}" and axes.get_xlabel() == f"{kind}, the weakest first"
    (axes, *_) = transition_map(run, images=60, attack="fgsm").axes
    assert axes.get_ylabel().startswith(kind)
    found = retrieved_images([run], images=60, queries=2, attack="fgsm").pictures
    for pictures in (attacked_images(run, images=60, attack="fgsm"), found):
        words = " ".join(text for row in pictures.rows for picture in row.pictures for text in picture.words)
        assert ("mode " in words) == (kind == "mode")
