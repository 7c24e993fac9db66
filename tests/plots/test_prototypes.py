"""Figures of prototypes hold the numbers of the record and of the final weights."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

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


def test_counts_are_those_of_the_log(ours: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(ours, run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines[0]["objective"]["in_use"], lines[1]["objective"]["in_use"] = [3, 3], [2, 1]
    edit(run / "metrics.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
    (run / "best.safetensors").unlink()
    figure = prototype_counts(run).to_dict()
    assert {trace["name"]: (list(trace["x"]), list(trace["y"])) for trace in figure["data"]} == {
        "0-4": ([1, 2], [3, 2]),
        "5-9": ([1, 2], [3, 1]),
    }
    assert figure["layout"]["yaxis"]["rangemode"] == "tozero"


def test_many_classes_are_summed_up(ours: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(ours, run)
    names = [str(place) for place in range(20)]
    facts = json.loads((run / "run.json").read_text()) | {"class_names": names, "num_classes": 20}
    edit(run / "run.json", json.dumps(facts))
    counts = [*range(1, 20), 12]
    edit(run / "metrics.jsonl", epochs(1, objective={"prototype_counts": counts}))
    figure = prototype_counts(run).to_dict()
    assert [trace["y"][0] for trace in figure["data"]] == [19, sum(counts) / 20, 1]


def test_classes_whose_names_begin_alike_stay_apart(ours: Path, tmp_path: Path) -> None:
    long = "german shepherd dogs, photographed from the "
    run = tmp_path / "run"
    shutil.copytree(ours, run)
    groups = json.dumps({f"{long}left": list("01234"), f"{long}right": list("56789")})
    recipe = (run / "recipe.yaml").read_text()
    edit(run / "recipe.yaml", re.sub(r"^groups: .*$", f"groups: {groups}", recipe, flags=re.MULTILINE))
    facts = json.loads((run / "run.json").read_text()) | {"class_names": [f"{long}left", f"{long}right"]}
    edit(run / "run.json", json.dumps(facts))
    assert [len(trace["y"]) for trace in prototype_counts(run).to_dict()["data"]] == [2, 2]
    usage = prototype_usage(run).to_dict()
    assert {tuple(trace["x"]) for trace in usage["data"]} == {(0, 1, 2, 3, 4, 5)}
    assert list(usage["layout"]["xaxis"]["tickvals"]) == [0, 1, 2, 3, 4, 5]
    ticks = list(usage["layout"]["xaxis"]["ticktext"])
    assert ticks == [f"german shepherd dog…, {place}" for _ in range(2) for place in range(3)]
    assert list(agreement_map(run).to_dict()["layout"]["yaxis"]["ticktext"]) == ticks


def test_usage_over_time_is_that_of_the_log(ours: Path, plain: Path) -> None:
    lines = [json.loads(line) for line in (ours / "metrics.jsonl").read_text().splitlines()]
    usage = [line["objective"]["usage"] for line in lines]
    assert all(sum(own) == pytest.approx(1, abs=1e-3) for epoch in usage for own in epoch)
    figure = usage_over_time(ours).to_dict()
    (trace,) = figure["data"]
    ticks = list(figure["layout"]["yaxis"]["ticktext"])
    row = ticks.index("5-9, 1")
    assert [value or 0 for value in trace["z"][row]] == [100 * epoch[1][1] for epoch in usage]
    with pytest.raises(ValueError, match="has no record of usage"):
        usage_over_time(plain)


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
    figure = prototype_usage(ours).to_dict()
    for mode, trace in enumerate(figure["data"]):
        expected = [
            sum(1 for row in zip(labels, places, modes, strict=True) if row == (owner, place, mode))
            for owner in range(2)
            for place in range(3)
        ]
        assert list(trace["customdata"]) == expected
        assert list(trace["y"]) == pytest.approx([100 * n / labels.count(i // 3) for i, n in enumerate(expected)])
    assert sum(sum(trace["y"]) for trace in figure["data"]) == pytest.approx(200)


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
    drawn = nearest_images(ours, each=4, pictured=seen)
    assert drawn.count("<img ") == 6 * 4 and drawn.count('alt="') == 6 * 4
    rows = re.findall(r'<tr><th scope="row">(0-4|5-9), prototype (\d).*?</tr>', drawn)
    assert rows == [(name, str(place)) for name in ("0-4", "5-9") for place in range(3)]
    assert drawn.count("&#10007;") == drawn.count(", another class") // 2  # alt and title say it
    first = re.search(r'alt="([^"]*)"', drawn)
    cosine = torch.cosine_similarity(seen.projected(seen.clean), seen.metric.prototypes[0, 0].detach(), dim=1)
    best = int(cosine.argmax())
    expected = (
        f"{seen.data.class_names[int(seen.data.labels[best])]}, mode {seen.data.mode_names[int(seen.data.modes[best])]}"
    )
    assert first is not None and first[1].startswith(expected)


def test_a_run_without_prototypes_is_refused(plain: Path) -> None:
    with pytest.raises(ValueError, match="has no record of prototypes"):
        prototype_counts(plain)
    for figure in (prototype_usage, agreement, nearest_images):
        with pytest.raises(ValueError, match="has no prototypes: it was not trained with SoftTriple"):
            figure(plain)
