"""A report of several runs stays small enough to send."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoat.cli import main

MOST = 1_500_000  # bytes
TRAIN = ["--groups", "none", "--validation_size", "0", "--epochs", "1", "--method", "Standard", "--schedule", "none"]


def pictures(folder: Path, each: int, seed: int) -> None:
    """Smooth colour pictures of CIFAR's size, which take about as many bytes as photographs."""
    drawn = np.random.default_rng(seed)
    for number in range(10):
        place = folder / f"class {number}"
        place.mkdir(parents=True)
        for index in range(each):
            coarse = drawn.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC).save(place / f"{index}.png")


@pytest.mark.slow
def test_three_runs_on_colour_images(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures" / "train", 10, seed=0)
    pictures(tmp_path / "pictures" / "test", 30, seed=1)
    first = tmp_path / "run 1"
    data = ["--data", "ImageFolder", "--data.path", str(tmp_path / "pictures")]
    assert main(["train", "--config", "digits", *data, *TRAIN, "--out", str(first)]) == 0
    assert main(["evaluate", str(first), "--attacks", "clean", "fgsm"]) == 0
    runs = [first, *(Path(shutil.copytree(first, tmp_path / f"run {number}")) for number in (2, 3))]
    sizes = []
    for shown in (runs[:1], runs):
        page = tmp_path / "page.html"
        assert main(["report", *map(str, shown), "--out", str(page)]) == 0
        text = page.read_text()
        sizes.append(len(text.encode()))
        assert len(re.findall('id="run-[0-9]+-map"', text)) == len(shown), "each has its map"
        assert text.count("data:image/webp") > 300 * len(shown)
    assert sizes[0] < MOST / 2 and sizes[1] < MOST
