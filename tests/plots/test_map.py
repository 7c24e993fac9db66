"""The map is fitted on clean images, and attacked ones do not move it."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from xml.etree import ElementTree

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
    seen = Pictured(ours, 40)
    plot = embedding_map(seen)
    texts = [point.words for point in plot.points]
    assert len(texts) == 80
    for kind, embedded in (("clean", seen.clean), ("attacked", seen.attacked("pgd10"))):
        mistakes = int((embedded.predicted != seen.data.labels).sum())
        assert sum(text.startswith(kind) and "taken for" in text for text in texts) == mistakes
        assert f"{kind} {100 * (40 - mistakes) / 40:.1f} %" in plot.about[1]
    images = [seen.clean.images[place] for place in (seen.data.modes == 7).nonzero()[:, 0]]
    shown = [point.image for point in plot.points if point.words.startswith("clean") and "mode 7" in point.words]
    for uri in shown:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
        assert any(np.array_equal(pixels, (255 * image[0]).round().numpy()) for image in images)
    assert len(shown) == len(images)


def test_marks_stand_in_the_order_of_the_points_where_t_sne_put_them(ours: Path) -> None:
    seen = Pictured(ours, 40)
    plot = embedding_map(seen)
    marks = [each for each in plot.axes[0].collections if str(each.get_gid()).startswith("points-")]
    drawn = np.concatenate([each.get_offsets() for each in marks])
    positions = torch.cat(place(seen.clean.embedding, seen.attacked("pgd10").embedding)).numpy()
    assert np.allclose(drawn[drawn[:, 0].argsort()], positions[positions[:, 0].argsort()])
    starts = [int(each.get_gid().removeprefix("points-")) for each in marks]
    assert starts == np.cumsum([0, *(len(each.get_offsets()) for each in marks[:-1])]).tolist()
    svg = ElementTree.fromstring(plot.svg("map"))
    groups = [group for group in svg.iter("g") if group.get("id", "").startswith("map-points-")]
    of_one = [1 - len(list(group.iter("defs"))) for group in groups]  # a path, where several use one
    assert [len(list(group.iter("use"))) + one for group, one in zip(groups, of_one, strict=True)] == [
        len(each.get_offsets()) for each in marks
    ]


def test_one_class_alone_can_be_shown(ours: Path) -> None:
    texts = [point.words for point in embedding_map(ours, images=20, classes=["5-9"]).points]
    assert len(texts) == 40 and all("class 5-9" in text for text in texts)
    with pytest.raises(ValueError, match="class '5-8' is unknown; did you mean '5-9'"):
        embedding_map(ours, classes=["5-8"])
    with pytest.raises(ValueError, match="images=0 must be at least 1"):
        embedding_map(ours, images=0)
    with pytest.raises(ValueError, match="attack 'clean' is none; name one, such as pgd10"):
        embedding_map(ours, images=20, attack="clean")
