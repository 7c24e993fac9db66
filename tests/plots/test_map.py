"""The map is fitted on clean images, and attacked ones do not move it."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from protoat.plots.map import embedding_map, place
from protoat.plots.subject import Pictured


def test_placing_others_does_not_move_the_clean_ones_and_can_be_repeated() -> None:
    clean = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    others = torch.randn(25, 8, generator=torch.Generator().manual_seed(1))
    alone, _ = place(clean, others[:1])
    beside, placed = place(clean, others)
    assert torch.equal(alone, beside)
    again = place(clean, others)
    assert torch.equal(again[0], beside) and torch.equal(again[1], placed)
    with pytest.raises(ValueError, match="at least 8 images, and there are 7"):
        place(clean[:7], others)


def test_an_image_that_was_not_changed_lands_where_it_was() -> None:
    centres = 4 * torch.eye(4, 8).repeat_interleave(20, 0)
    clean = centres + 0.3 * torch.randn(80, 8, generator=torch.Generator().manual_seed(0))
    known, placed = place(clean, clean)
    distances = torch.cdist(placed, known)
    assert bool((distances.argmin(1) // 20 == torch.arange(80) // 20).all())
    spread = torch.cdist(known, known).median()
    assert float((placed - known).norm(dim=1).median()) < 0.2 * float(spread)


def test_points_say_what_the_model_makes_of_their_image(ours: Path) -> None:
    figure = embedding_map(ours, images=40).to_dict()
    seen = Pictured(ours, 40)
    points = [trace for trace in figure["data"] if trace.get("customdata") is not None]
    texts = [text for trace in points for text in trace["hovertext"]]
    assert len(texts) == 80
    for kind, embedded, wrong in (
        ("clean", seen.clean, "triangle-down"),
        ("attacked", seen.attacked("pgd10"), "triangle-up"),
    ):
        mistakes = int((embedded.predicted != seen.data.labels).sum())
        assert sum(text.startswith(kind) and "taken for" in text for text in texts) == mistakes
        assert sum(list(trace["marker"]["symbol"]).count(wrong) for trace in points) == mistakes
        right = 40 - mistakes
        assert f"{kind} {100 * right / 40:.1f} %" in figure["layout"]["title"]["text"]
    first = next(trace for trace in points if trace["name"] == "mode 7")
    row = (seen.data.modes == 7).nonzero()[0, 0]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(first["customdata"][0].partition(",")[2]))))
    assert np.array_equal(shown, seen.data.images[row, 0].numpy())


def test_one_class_alone_can_be_shown(ours: Path) -> None:
    figure = embedding_map(ours, images=20, classes=["5-9"]).to_dict()
    texts = [text for trace in figure["data"] for text in trace.get("hovertext") or ()]
    assert len(texts) == 40 and all("class 5-9" in text for text in texts)
    with pytest.raises(ValueError, match="class '5-8' is unknown; did you mean '5-9'"):
        embedding_map(ours, classes=["5-8"])
    with pytest.raises(ValueError, match="images=0 must be at least 1"):
        embedding_map(ours, images=0)
    with pytest.raises(ValueError, match="attack 'clean' is none; name one, such as pgd10"):
        embedding_map(ours, images=20, attack="clean")
