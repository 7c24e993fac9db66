"""The figure of retrieval shows what is nearest, marks other classes, and counts all queries."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch

from protoat.plots.retrieval import retrieval
from protoat.plots.subject import Pictured
from tests.whole import edit


def test_it_counts_and_marks_wrong_classes(ours: Path, plain: Path) -> None:
    drawn = retrieval([ours, plain], queries=3, k=4, images=60)
    assert drawn == retrieval([ours, plain], queries=3, k=4, images=60)
    assert drawn.count('<figure class="') == 2 * 2 * 3 * 4
    assert drawn.count("&#10007;") == drawn.count('class="wrong"') == drawn.count("3px dashed") > 0
    assert drawn.count("<img ") == drawn.count("alt=") == 2 * 2 * 3 * 5
    seen = Pictured(plain, 60)
    right = 0
    for place, z in enumerate(seen.clean.embedding):
        cosine = torch.cosine_similarity(z[None], seen.clean.embedding)
        cosine[place] = -2
        right += int((seen.data.labels[cosine.topk(4).indices] == seen.data.labels[place]).sum())
    row = re.search(r'<th scope="row">plain</th><td>([\d.]+) \[([\d.]+), ([\d.]+)\]', drawn)
    # Wilson's interval as in the paper of 1927, of the whole counts around the mean of 60 queries.
    low, high = (
        (p + 1.9208 / 60 + sign * 1.96 * math.sqrt(p * (1 - p) / 60 + 0.9604 / 3600)) / (1 + 3.8416 / 60)
        for sign, p in ((-1, math.floor(right / 4) / 60), (1, math.ceil(right / 4) / 60))
    )
    assert row is not None and row.groups() == tuple(f"{100 * share:.1f}" for share in (right / 240, low, high))


def test_queries_are_of_different_modes(ours: Path) -> None:
    drawn = retrieval([ours], queries=10, k=1, images=100)
    assert len(set(re.findall(r"<caption>Query of class [^<]*, mode (\d)", drawn))) == 10


def test_runs_that_cannot_be_compared_are_refused(ours: Path, plain: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(plain, other)
    text = (other / "recipe.yaml").read_text()
    edit(other / "recipe.yaml", text.replace("eps: 0.1", "eps: 0.2"))
    with pytest.raises(ValueError, match="different test images or threat models"):
        retrieval([ours, other], images=20)
    with pytest.raises(ValueError, match="k=20 neighbours are asked for"):
        retrieval([ours], k=20, images=20)
    with pytest.raises(ValueError, match="queries=21"):
        retrieval([ours], queries=21, images=20)


def test_names_from_outside_stay_text(ours: Path, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    folder = tmp_path / hostile
    shutil.copytree(ours, folder)
    recipe = (folder / "recipe.yaml").read_text()
    groups = json.dumps({hostile: list("01234"), "b": list("56789")})
    edit(folder / "recipe.yaml", re.sub(r"^groups: .*$", f"groups: {groups}", recipe, flags=re.MULTILINE))
    facts = json.loads((folder / "run.json").read_text()) | {"class_names": [hostile, "b"]}
    edit(folder / "run.json", json.dumps(facts))
    drawn = retrieval([folder], queries=1, k=1, images=20)
    assert "<img src=x" not in drawn and "&lt;img src=x onerror=alert(1)&gt;" in drawn
