"""Figures of prototypes hold the numbers of the record and of the final weights."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from protoat.plots.map import embedding_map
from protoat.plots.prototypes import (
    agreement,
    nearest_images,
    prototype_counts,
    prototype_usage,
    usage_over_time,
)
from protoat.plots.subject import Pictured
from protoat.plots.transitions import agreement_map
from protoat.runs.run import Run
from protoat.types import as_output
from tests.whole import edit, epochs

from .reading import bars, lines, ticks


def test_counts_are_those_of_the_log(ours: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(ours, run)
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged[0]["objective"]["in_use"], logged[1]["objective"]["in_use"] = [3, 3], [2, 1]
    edit(run / "metrics.jsonl", "".join(f"{json.dumps(line)}\n" for line in logged))
    (run / "best.safetensors").unlink()
    plot = prototype_counts(run)
    assert lines(plot) == {"0-4": ([1, 2], [3, 2]), "5-9": ([1, 2], [3, 1])}
    assert plot.axes[0].get_ylim()[0] == 0


def test_many_classes_are_summed_up(ours: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(ours, run)
    names = [str(place) for place in range(20)]
    facts = json.loads((run / "run.json").read_text()) | {"class_names": names, "num_classes": 20}
    edit(run / "run.json", json.dumps(facts))
    counts = [*range(1, 20), 12]
    edit(run / "metrics.jsonl", epochs(1, objective={"prototype_counts": counts}))
    assert [y[0] for _, y in lines(prototype_counts(run)).values()] == [19, sum(counts) / 20, 1]


def test_classes_whose_names_begin_alike_stay_apart(ours: Path, tmp_path: Path) -> None:
    long = "german shepherd dogs, photographed from the "
    run = tmp_path / "run"
    shutil.copytree(ours, run)
    groups = json.dumps({f"{long}left": list("01234"), f"{long}right": list("56789")})
    recipe = (run / "recipe.yaml").read_text()
    edit(run / "recipe.yaml", re.sub(r"^groups: .*$", f"groups: {groups}", recipe, flags=re.MULTILINE))
    facts = json.loads((run / "run.json").read_text()) | {"class_names": [f"{long}left", f"{long}right"]}
    edit(run / "run.json", json.dumps(facts))
    assert len(prototype_counts(run).axes[0].lines) == 2
    usage = prototype_usage(run)
    assert sum(map(sum, bars(usage).values())) == pytest.approx(200), "all images of both classes"
    assert ticks(usage, "x") == [f"german she…the {side}, {place}" for side in ("left", "right") for place in range(3)]
    assert ticks(agreement_map(run), "y") == ticks(usage, "x")


def test_usage_over_time_is_that_of_the_log(ours: Path, plain: Path) -> None:
    logged = [json.loads(line) for line in (ours / "metrics.jsonl").read_text().splitlines()]
    usage = [line["objective"]["usage"] for line in logged]
    assert all(sum(own) == pytest.approx(1, abs=1e-3) for epoch in usage for own in epoch)
    plot = usage_over_time(ours)
    row = plot.axes[0].images[0].get_array()[ticks(plot, "y").index("5-9, 1")]
    assert row.filled(0).tolist() == [100 * epoch[1][1] for epoch in usage]
    with pytest.raises(ValueError, match="has no record of usage"):
        usage_over_time(plain)


def test_a_run_of_the_zoo_goes_by_its_name_and_not_by_a_path_of_this_machine(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = Pictured("zoo:digits-2", 10)
    with caplog.at_level("INFO", "protoat"):
        embedding_map(seen, attack="pgd1")
    assert len(caplog.messages) == 3
    assert all(said.startswith("zoo:digits-2: ") for said in caplog.messages)
    for draw in (prototype_counts, usage_over_time):
        with pytest.raises(ValueError, match=r"^zoo:mnist-2 has no record"):
            draw("zoo:mnist-2")


def slow_places(run: Path) -> tuple[list[int], list[int], list[int]]:
    """Class, nearest prototype of it, and mode of each test image, one at a time."""
    subject = Run(run).subject()
    metric = subject.regularizer
    assert metric is not None
    with torch.no_grad():
        z = metric.projected(as_output(subject.model(subject.data.images.float() / 255)).embedding)
    labels = subject.data.labels.tolist()
    places = [
        int(torch.stack([torch.cosine_similarity(z[i], w, dim=0) for w in metric.prototypes[y]]).argmax())
        for i, y in enumerate(labels)
    ]
    return labels, places, subject.data.modes.tolist()


def test_usage_counts_each_image_once_at_its_nearest_prototype(ours: Path) -> None:
    labels, places, modes = slow_places(ours)
    shares = bars(prototype_usage(ours))
    for mode, name in enumerate("0123456789"):
        expected = [
            sum(1 for row in zip(labels, places, modes, strict=True) if row == (owner, place, mode))
            for owner in range(2)
            for place in range(3)
        ]
        assert shares[name] == pytest.approx([100 * n / labels.count(i // 3) for i, n in enumerate(expected)])
    assert sum(map(sum, shares.values())) == pytest.approx(200)


def test_agreement_is_of_each_class(ours: Path) -> None:
    labels, places, modes = slow_places(ours)
    found = agreement(ours)
    assert list(found) == ["0-4", "5-9"]
    for owner, own in enumerate(found.values()):
        rows = [(k, m) for y, k, m in zip(labels, places, modes, strict=True) if y == owner]
        most = [max(rows.count((k, m)) for m in range(10)) for k in {k for k, _ in rows}]
        assert own.purity == pytest.approx(sum(most) / len(rows))
        assert (own.images, own.modes) == (len(rows), 5)


def test_the_atlas_shows_the_nearest_images_and_marks_other_classes(ours: Path) -> None:
    seen = Pictured(ours)
    atlas = nearest_images(seen, each=4)
    labels, places, _ = slow_places(ours)
    used = sorted({*zip(labels, places, strict=True)})
    assert [row.title for row in atlas.rows] == [f"{('0-4', '5-9')[own]}, prototype {place}" for own, place in used]
    assert any("left out" in line for line in atlas.about) == (len(used) < 6)
    for (own, place), row in zip(used, atlas.rows, strict=True):
        assert row.note == f"{sum(pair == (own, place) for pair in zip(labels, places, strict=True))} images"
        cosine = torch.cosine_similarity(seen.projected(seen.clean), seen.metric.prototypes[own, place].detach(), dim=1)
        for picture, best in zip(row.pictures, cosine.argsort(descending=True)[:4].tolist(), strict=True):
            assert torch.equal(picture.images[0], seen.data.images[best])
            assert picture.wrong == (int(seen.data.labels[best]) != own) == picture.words[0].endswith(", another class")


def test_a_run_without_prototypes_is_refused(plain: Path) -> None:
    with pytest.raises(ValueError, match="has no record of prototypes"):
        prototype_counts(plain)
    for figure in (prototype_usage, agreement, nearest_images):
        with pytest.raises(ValueError, match="has no prototypes: it was not trained with SoftTriple"):
            figure(plain)
