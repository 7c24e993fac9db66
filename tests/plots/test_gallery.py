"""The gallery shows what the attack does, the weakest modes first; the figure of modes holds the record."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import protoat as pa
from protoat.plots.subject import Pictured
from protoat.runs.run import Run
from tests.whole import edit

from ..evaluation.test_compare import content
from .reading import bars, intervals, ticks


def test_weakest_modes_come_first_and_images_are_what_the_model_saw(plain: Path) -> None:
    seen = Pictured(plain, 100)
    gallery = pa.plots.attacked_images(seen, modes=4, each=2)
    record = json.loads((plain / "evaluation.json").read_text())["worst_case"]["per_mode"]
    weakest = sorted(record, key=lambda name: record[name]["correct"] / record[name]["total"])[:4]
    assert [row.title for row in gallery.rows] == [f"mode {name}" for name in weakest]
    attacked = seen.attacked("pgd10")
    for row, mode in zip(gallery.rows, weakest, strict=True):
        of_mode = (seen.data.modes == int(mode)).nonzero()[:, 0].tolist()
        stays = [bool(attacked.predicted[place] == seen.data.labels[place]) for place in of_mode]
        correct, total = record[mode]["correct"], record[mode]["total"]
        assert row.note.endswith(f", {correct} of {total} stay right in the worst case")
        turned = [
            place
            for place, stay in zip(of_mode, stays, strict=True)
            if not stay and seen.clean.predicted[place] == seen.data.labels[place]
        ]
        for picture, place in zip(row.pictures, turned, strict=False):
            clean, change, after = picture.images
            assert torch.equal(clean, seen.clean.images[place]) and torch.equal(after, attacked.images[place])
            moved = (after - clean) / (after - clean).abs().max()
            assert torch.allclose(change, 0.5 + moved / 2) and picture.wrong
            names = [seen.data.class_names[int(part.predicted[place])] for part in (seen.clean, attacked)]
            before, _, then = picture.caption.partition(" → ")
            assert [before.partition(",")[0], then.partition(",")[0]] == names


def test_without_a_record_modes_are_in_the_order_of_these_images(plain: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(plain, run)
    (run / "evaluation.json").unlink()
    seen = Pictured(run, 100)
    right = seen.attacked("pgd10").predicted == seen.data.labels
    counts = {str(mode): right[seen.data.modes == mode].tolist() for mode in range(10)}
    order = sorted(counts, key=lambda mode: sum(counts[mode]) / len(counts[mode]))
    rows = pa.plots.attacked_images(seen, modes=10, each=1).rows
    assert [row.title for row in rows] == [f"mode {mode}" for mode in order]
    assert rows[0].note.endswith(f", {sum(counts[order[0]])} of {len(counts[order[0]])} stay right under pgd10")


def test_a_record_for_another_threat_model_is_not_put_beside_the_images(plain: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(plain, run)
    wider = pa.plots.attacked_images(run, images=20, attack="pgd2@0.15", modes=1, each=1)
    assert wider.about[0].startswith("of 20 test images, attacked by pgd2@0.15, linf, eps 0.15: ")
    record = json.loads((run / "evaluation.json").read_text())
    record["subject"]["threat"]["eps"] = 0.3
    edit(run / "evaluation.json", record)
    other = pa.plots.attacked_images(run, images=20, attack="pgd2", modes=1, each=1)
    for gallery, attack, known in ((wider, "pgd2@0.15", "linf 0.1"), (other, "pgd2", "linf 0.3")):
        assert gallery.rows[0].note.endswith(f"stay right under {attack}")
        assert gallery.about[1].endswith(f"as the evaluation of the run is for {known}")


def test_several_figures_of_one_run_embed_and_attack_it_once(plain: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        seen = Pictured(Run(plain), 40)
        for draw in (pa.plots.attacked_images, pa.plots.embedding_map, pa.plots.transition_map):
            draw(seen)
    said = [record.message.rpartition(": ")[2] for record in caplog.records if record.name.startswith("protoat")]
    assert said == [
        "embedding 40 test images",
        "embedding 40 test images under pgd10",
        "arranging 80 points, which takes a while",
    ]


def test_modes_are_those_of_the_records_in_the_order_of_the_first(ours: Path, plain: Path) -> None:
    found = {
        name: json.loads((run / "evaluation.json").read_text()) for name, run in (("ours", ours), ("plain", plain))
    }
    plot = pa.plots.accuracy_of_modes([ours, plain])
    first = found["ours"]["worst_case"]["per_mode"]
    order = sorted(first, key=lambda name: first[name]["correct"] / first[name]["total"])
    assert ticks(plot, "x") == order
    for name, record in found.items():
        modes = record["worst_case"]["per_mode"]
        heights = [100 * modes[mode]["correct"] / modes[mode]["total"] for mode in order]
        assert bars(plot)[f"{name}, worst case"] == pytest.approx(heights)
    assert all(low <= high for bar in intervals(plot).values() for low, high in bar)
    assert list(bars(pa.plots.accuracy_of_modes(Run(ours)))) == ["worst case"]


def test_runs_whose_long_names_begin_alike_are_all_drawn(tmp_path: Path) -> None:
    folders = [tmp_path / f"{'a' * 50}-{end}" for end in ("0-1a2b", "1-3c4d")]
    for folder, right in zip(folders, (10, 20), strict=True):
        folder.mkdir()
        edit(folder / "evaluation.json", content({"pgd10": "1" * right + "0" * (40 - right)}))
    drawn = bars(pa.plots.accuracy_of_modes(folders))
    assert list(drawn.values()) == [[0.0, 50.0], [0.0, 100.0]]
    assert [name.partition(",")[0][-6:] for name in drawn] == ["0-1a2b", "1-3c4d"]


def test_what_was_not_measured_or_is_of_other_modes_is_refused(ours: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no evaluation\.json; measure it first"):
        pa.plots.accuracy_of_modes(tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pa.plots.nothing  # noqa: B018 - looking is the test


def test_a_network_that_returns_logits_only_is_seen_where_its_embedding_can_be_found(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(*layers: nn.Module) -> Pictured:
        subject = replace(Run(plain).subject(), model=nn.Sequential(*layers).eval())
        with monkeypatch.context() as patch:
            patch.setattr(Run, "subject", lambda _: subject)
            found = Pictured(plain, 40)
            assert found.subject.threat == subject.threat
        return found

    hidden = (nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
    found = seen(*hidden, nn.Linear(16, 2))
    with torch.no_grad():
        expected = nn.Sequential(*hidden)(found.data.pixels(slice(None)))
    torch.testing.assert_close(found.clean.embedding, expected)
    assert pa.plots.attacked_images(found, attack="pgd1").rows
    with pytest.raises(ValueError, match="the model returns logits only, and a figure of embeddings needs them"):
        _ = seen(nn.Conv2d(1, 2, 8), nn.Flatten()).clean
