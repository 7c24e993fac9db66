"""Figure 2 is drawn from the objects: another recipe, another picture."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from protoat.paper.figures.framework import framework, framework_of_recipe
from protoat.recipes.reading import read_recipe
from protoat.runs.build import build

from .reading import words


def test_it_says_what_the_objects_are() -> None:
    recipe = read_recipe("digits-2", ["--method.steps", "9", "--regularizer.prototypes_per_class", "[2, 4]"])
    parts = build(recipe)
    plot = framework_of_recipe(recipe, "mine")
    shown = words(plot)
    size = sum(parameter.numel() for parameter in parts.model.parameters())
    for text in ("method: PGDAT", "steps 9", "network: LeNet", f"{size:,} parameters", "embedding z, D = 100"):
        assert text in shown
    assert {"SoftTriple", "prototypes per class: 2/4", "linf, eps 0.1", "2 classes: 0-4, 5-9"} <= set(shown)
    assert not any(line.startswith("training") for line in shown)
    assert "loss = base + 0.5 · metric + 0.005 · norm of embedding" in shown
    assert sum(line.get_markerfacecolor() == "none" for line in plot.axes[0].lines) == 2 + 4


def test_other_parts_give_another_picture() -> None:
    shown = words(framework_of_recipe(read_recipe("digits", ["--method", "FreeAT", "--regularizer", "none"]), "free"))
    assert {"method: FreeAT", "replays 8", "no regularizer", "loss = base", "10 modes"} <= set(shown)
    assert "as TRADES defines it" in " ".join(
        words(framework_of_recipe(read_recipe("digits", ["--method", "TRADES"]), ""))
    )


def test_a_run_is_drawn_without_weights_or_data_and_its_name_stays_text(ours: Path, tmp_path: Path) -> None:
    folder = tmp_path / "<b>"
    folder.mkdir()
    for name in ("recipe.yaml", "run.json"):
        shutil.copy(ours / name, folder)
    plot = framework(folder)
    assert plot.title == "Framework of <b>" and "prototypes per class: 3" in words(plot)
    (folder / "run.json").unlink()
    with pytest.raises(ValueError, match=r"has no run\.json that names its classes"):
        framework(folder)
