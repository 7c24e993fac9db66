"""The figure of retrieval shows what is nearest, marks other classes, and counts all queries."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from protoat.plots.retrieval import retrieved_images
from protoat.plots.subject import Pictured
from tests.plots.reading import on_page
from tests.whole import edit


def test_it_counts_and_marks_wrong_classes(ours: Path, plain: Path) -> None:
    seen = Pictured(plain, 60)
    found = retrieved_images([ours, seen], queries=3, k=4, images=60)
    assert on_page(found.pictures) == on_page(retrieved_images([ours, seen], queries=3, k=4, images=60).pictures)
    assert [row.title for row in found.pictures.rows] == [
        f"{name}, {kind}" for _ in range(3) for name in ("ours", "plain") for kind in ("clean", "attacked")
    ]
    neighbours = [picture for row in found.pictures.rows for picture in row.pictures[1:]]
    assert len(neighbours) == 2 * 2 * 3 * 4 and any(picture.wrong for picture in neighbours)
    assert all(picture.wrong == picture.words[0].startswith("wrong class") for picture in neighbours)
    own = [0, 0]
    for place, z in enumerate(seen.clean.embedding):
        cosine = torch.cosine_similarity(z[None], seen.clean.embedding)
        cosine[place] = -2
        nearest = cosine.topk(4).indices
        own[0] += int((seen.data.labels[nearest] == seen.data.labels[place]).sum())
        own[1] += int((seen.data.modes[nearest] == seen.data.modes[place]).sum())
    clean, _, same_mode, _ = found.precisions["plain"]
    assert (clean.correct, clean.total, same_mode.correct) == (own[0], 240, own[1])


def test_queries_are_of_different_modes(ours: Path) -> None:
    rows = retrieved_images([ours], queries=10, k=1, images=100).pictures.rows
    assert len({re.sub(".*, mode ", "", row.note) for row in rows}) == 10


def test_runs_that_cannot_be_compared_are_refused(ours: Path, plain: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(plain, other)
    text = (other / "recipe.yaml").read_text()
    edit(other / "recipe.yaml", text.replace("eps: 0.1", "eps: 0.2"))
    with pytest.raises(ValueError, match="different test images or threat models"):
        retrieved_images([ours, other], images=20)
    with pytest.raises(ValueError, match="k=20 neighbours are asked for"):
        retrieved_images([ours], k=20, images=20)
    with pytest.raises(ValueError, match="queries=21"):
        retrieved_images([ours], queries=21, images=20)
    with pytest.raises(ValueError, match="none of them twice"):
        retrieved_images([ours, ours], images=20)


def test_names_from_outside_stay_text(ours: Path, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    folder = tmp_path / hostile
    shutil.copytree(ours, folder)
    recipe = (folder / "recipe.yaml").read_text()
    groups = json.dumps({hostile: list("01234"), "b": list("56789")})
    edit(folder / "recipe.yaml", re.sub(r"^groups: .*$", f"groups: {groups}", recipe, flags=re.MULTILINE))
    facts = json.loads((folder / "run.json").read_text()) | {"class_names": [hostile, "b"]}
    edit(folder / "run.json", json.dumps(facts))
    drawn = on_page(retrieved_images([folder], queries=1, k=1, images=20).pictures)
    assert "<img src=x" not in drawn and "&lt;img src=x onerror=alert(1)&gt;" in drawn
