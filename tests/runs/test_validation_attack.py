"""A recipe may name the attack under which held-out images choose the best epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from protoat.evaluation import attack_of_name
from protoat.recipes.reading import read_recipe
from protoat.runs.build import build
from protoat.runs.fingerprint import fingerprint_of_recipe
from protoat.runs.run import Run
from protoat.runs.train import train
from protoat.storage.parsing import parse_yaml

SHORT = {"epochs": 1, "validation_size": 60, "method": {"init_args": {"steps": 1}}, "schedule": None}


def test_held_out_images_are_judged_under_it(tmp_path: Path) -> None:
    robust = {}
    for name in (None, "square1", "pgd40"):
        recipe = read_recipe("digits-2", {**SHORT, "epochs": 3, "validation_attack": name})
        if name is not None:
            assert repr(build(recipe).validation_attack) == repr(attack_of_name(name, recipe.threat))
        train(recipe, tmp_path / str(name), progress=False)
        robust[name] = [epoch.held_out.robust for epoch in Run(tmp_path / str(name)).metrics if epoch.held_out]
    assert robust["square1"][-1] > robust[None][-1] >= robust["pgd40"][-1]
    weights = {(tmp_path / str(name) / "last.safetensors").read_bytes() for name in robust}
    assert len(weights) == 1, "training sees the same"


def test_without_it_a_run_stays_the_same_run() -> None:
    def identity(**options: Any) -> str | None:
        return fingerprint_of_recipe(parse_yaml(read_recipe("digits-2", {**SHORT, **options}).text))

    plain = parse_yaml(read_recipe("digits-2", SHORT).text)
    assert fingerprint_of_recipe({key: plain[key] for key in plain if key != "validation_attack"}) == identity()
    assert identity(validation_attack="pgd20") != identity()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_attack": "clean"}, "validation_attack='clean' attacks no held-out images"),
        ({"validation_attack": "pgd20", "validation_size": 0}, "and validation_size=1000"),
        ({"validation_attack": "pdg20"}, "did you mean 'pgd20'"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(read_recipe("digits-2", {**SHORT, **options}))
