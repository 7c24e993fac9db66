"""Every method and every regularizer from the command line; classes are found as the command itself offers them.

`contracts/test_method_contract.py` holds that all pairs of them train.
"""

from __future__ import annotations

import json
from itertools import cycle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from protoat.cli import main
from protoat.data import Digits, ImageData
from protoat.recipes.reading import recipe_parser

CHOICES = recipe_parser().choices
METHODS, REGULARIZERS = CHOICES("method"), CHOICES("regularizer")
# What a method cannot do without.
NEEDED = {"BiaMAT": ["--method.auxiliary", "Digits"]}
IN_TURN = ("SoftTriple", "TLA", "ProxyAnchor", "none")
PAIRS = {*zip(METHODS, cycle(IN_TURN)), *(("PGDAT", regularizer) for regularizer in REGULARIZERS)}


@pytest.fixture
def two_batches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Leaves 48 of the digits; these arguments make two steps of them."""
    read = Digits.read

    def few(self: Digits, split: str) -> ImageData:
        data = read(self, split)
        return ImageData(data.images[:48], data.labels[:48], data.class_names)

    monkeypatch.setattr(Digits, "read", few)
    return ["--config", "digits", "--epochs", "1", "--batch_size", "24", "--validation_size", "0", "--schedule", "none"]


def trained(args: list[str], out: Path) -> dict[str, torch.Tensor]:
    """Runs the command; how far each tensor of model and objective has moved from the first checkpoint."""
    assert main(["train", *args, "--out", str(out)]) == 0
    first = out / "checkpoints/00000000"
    before = load_file(first / "common.safetensors") | load_file(first / "process-0.safetensors")
    after = load_file(out / "last.safetensors")
    return {name: (value.float() - before[name].float()).abs().max() for name, value in after.items()}


def test_some_are_found() -> None:
    assert {"AWP", "BiaMAT", "FreeAT", "PGDAT", "Standard"} <= set(METHODS)
    assert set(IN_TURN) < set(REGULARIZERS)


@pytest.mark.parametrize(("method", "regularizer"), sorted(PAIRS))
def test_two_steps(method: str, regularizer: str, two_batches: list[str], tmp_path: Path) -> None:
    args = [*two_batches, "--method", method, *NEEDED.get(method, []), "--regularizer", regularizer]
    moved = trained(args, tmp_path / "run")
    (line,) = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert line["update"] == 2 * (8 if method == "FreeAT" else 1)
    assert ("metric" in line) == (regularizer != "none")
    learned = {name for name in moved if name.endswith((".weight", ".bias", "prototypes", "proxies"))}
    assert len(learned) > 8
    assert all(moved[name] > 0 for name in learned), [name for name in learned if not moved[name]]
    assert all(value.isfinite() for value in moved.values())


@pytest.mark.parametrize("inside", [name for name in METHODS if name not in ("AWP", "FreeAT")])
def test_two_steps_inside_awp(inside: str, two_batches: list[str], tmp_path: Path) -> None:
    needed = [arg.replace("--method.", "--method.method.") for arg in NEEDED.get(inside, [])]
    moved = trained(
        [*two_batches, "--method", "AWP", "--method.method", inside, *needed, "--method.gamma", "0.02"], tmp_path / "a"
    )
    assert moved["model.head.weight"] > 0


def test_arguments_reach_the_method_inside(two_batches: list[str], tmp_path: Path) -> None:
    for beta in ("1", "50"):
        inside = ["--method", "AWP", "--method.method", "TRADES", "--method.method.beta", beta]
        trained([*two_batches, *inside, "--regularizer", "none"], tmp_path / beta)
    losses = [json.loads((tmp_path / beta / "metrics.jsonl").read_text())["base"] for beta in ("1", "50")]
    assert losses[0] < losses[1]
