"""Two small runs on digits with their records, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from protoat.recipes.reading import read_recipe
from protoat.runs.measure import measure
from protoat.runs.run import Run
from protoat.runs.train import train

SHORT = ["--schedule", "none", "--validation_size", "100", "--batch_size", "128", "--method.steps", "2"]


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trains digits-2 for two epochs, with changes, and measures it on 100 images."""
    root = tmp_path_factory.mktemp("runs")

    def make(name: str, *changes: str, attacks: tuple[str, ...] = ("clean", "pgd10")) -> Path:
        torch.set_num_threads(1)
        out = root / name
        train(read_recipe("digits-2", [*SHORT, "--epochs", "2", *changes]), out, progress=False)
        measure(Run(out).subject(), attacks, limit=100)
        return out

    return make


@pytest.fixture(scope="session")
def ours(make_run: Callable[..., Path]) -> Path:
    """Three prototypes for each class; measured at several radii and steps."""
    attacks = ("clean", "fgsm", "pgd10", "pgd2", "pgd10@0.05", "pgd10@0.15")
    return make_run("ours", "--regularizer.prototypes_per_class", "3", attacks=attacks)


@pytest.fixture(scope="session")
def plain(make_run: Callable[..., Path]) -> Path:
    """Without regularizer."""
    return make_run("plain", "--regularizer", "none")
