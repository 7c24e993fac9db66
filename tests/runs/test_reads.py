"""What a command reads of a run, it reads once."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.calls import EVALUATE, TRAIN, in_a_process


@pytest.mark.parametrize("weights", [(), ("--weights", "last")])
def test_weights_and_recipe_are_read_once_to_measure_a_run(tmp_path: Path, weights: tuple[str, ...]) -> None:
    run = tmp_path / "run"
    trained = in_a_process(TRAIN, run)
    assert trained.reads.get("recipe.yaml", 0) <= 1
    reads = in_a_process((*EVALUATE, *weights), run).reads
    assert reads["recipe.yaml"] == 1
    assert reads.get("best.safetensors", 0) + reads.get("last.safetensors", 0) == 1
    assert reads["metrics.jsonl"] == reads["run.json"] == 1
