"""``protoat predict``, and the same in the library."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import protoat as pa
from protoat.cli import main
from protoat.recipes.reading import read_recipe
from protoat.runs.run import Run
from protoat.runs.train import train

IMAGES = pa.Digits().load("test").images[:5]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    shutil.copytree(Path(pa.__file__).parent / "zoo" / "digits-2", folder := tmp_path_factory.mktemp("predict") / "run")
    return Run(folder)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for place, image in enumerate(IMAGES):
        path = tmp_path / "shots" / ("deep" if place == 4 else ".") / f"{place + 8}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)
    (tmp_path / "shots" / "notes.txt").write_text("no picture")
    (tmp_path / "shots" / ".hidden.png").write_bytes(b"")
    return tmp_path / "shots"


def test_the_library_says_what_the_network_and_the_prototypes_say(run: Run) -> None:
    found = run.predict(IMAGES, batch_size=2)
    with torch.no_grad():
        logits, embedding = run.model(IMAGES / 255)
    assert torch.allclose(found.logits, logits, atol=1e-6)
    assert [each.label for each in found] == logits.argmax(1).tolist() == found.labels.tolist()
    metric = run.regularizer(run.model)
    prototypes, embedding = metric.prototypes, metric.projected(embedding)
    for row, each in enumerate(found):
        cosines = F.cosine_similarity(prototypes[each.label], embedding[row], dim=1)  # (K, D) and (D,)
        assert each.class_name == run.class_names[each.label]
        assert each.prototype == f"{each.class_name}, {int(cosines.argmax())}"
        assert each.probability == pytest.approx(float(logits[row].softmax(0)[each.label]), abs=1e-6)
    assert [*found[1:3]] == [found[1], found[2]]
    assert len(run.predict(IMAGES[0])) == 1
    assert not run.predict([])


def test_the_places_are_those_of_a_head_of_prototypes() -> None:
    head = pa.MultiPrototypeHead(2, 2, prototypes_per_class=2)
    with torch.no_grad():
        head.prototypes.copy_(torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [0.0, -1.0]]]))

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, x: torch.Tensor) -> pa.Output:
            embedding = 2 * x.flatten(1) - 1
            return pa.Output(self.head(embedding), embedding)

    images = torch.tensor([[1.0, 0.5], [0.5, 1.0], [0.0, 0.5], [0.5, 0.0]]).view(4, 1, 1, 2)
    found = pa.predict(Net(), images, preprocess=pa.Preprocess((1, 1, 2)), class_names=["a", "b"])
    assert [each.prototype for each in found] == ["a, 0", "a, 1", "b, 0", "b, 1"]


GROUPS = {"even": [0, 2, 4, 6, 8], "odd": [1, 3, 5, 7, 9]}
HEAD = {"class_path": "MultiPrototypeHead", "init_args": {"prototypes_per_class": 6}}
TIED = {"init_args": {"tied": True, "prototypes_per_class": 5}}


@pytest.mark.parametrize(
    ("weight", "regularizer", "head", "unnamed"),
    [
        (0.5, None, None, ()),
        (0.5, None, HEAD, (5,)),
        (0.0, TIED, None, ()),
        (0.0, TIED, HEAD, range(6)),  # the head's, which knows no modes
    ],
)
def test_a_prototype_of_a_mode_has_its_name(
    weight: float, regularizer: Any, head: Any, unnamed: Collection[int], tmp_path: Path
) -> None:
    modes = {"class_path": "KnownModes", "init_args": {"mode_weight": weight}}
    changes = {"groups": GROUPS, "epochs": 1, "modes": modes, "regularizer": regularizer, "head": head}
    train(read_recipe("digits-2", {**changes, "schedule": None}), tmp_path / "run", progress=False)
    run = Run(tmp_path / "run")
    images = pa.Digits().load("test").images[:200]
    found = run.predict(images)
    assert found.places is not None
    assert len(set(found.places.tolist())) > 1
    for label, place, each in zip(found.labels.tolist(), found.places.tolist(), found, strict=True):
        number = f"{['even', 'odd'][label]}, {place}"
        assert each.prototype == (number if place in unnamed else str(2 * place + label))
    assert [each.prototype for each in found[:3]] == [found[index].prototype for index in range(3)]


def test_files_folders_patterns_and_lists_name_pictures(
    run: Run, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*words: str) -> list[dict[str, str]]:
        capsys.readouterr()
        assert main(["predict", str(run.path), *words, "--format", "csv"]) == 0
        return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))

    whole = said(str(pictures))
    assert [Path(row["picture"]).name for row in whole] == ["8.png", "9.png", "10.png", "11.png", "12.png"]
    assert [row["class"] for row in whole] == [each.class_name for each in run.predict(IMAGES)]
    assert said(f"{pictures}/1?.png") == whole[2:4]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{pictures}/9.png\n\n{pictures}/deep/12.png\n"))
    assert said("-", f"{pictures}/8.png") == [whole[1], whole[4], whole[0]]


def test_json_goes_to_a_file_and_holds_every_probability(
    run: Run, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "said.json"
    assert main(["predict", str(run.path), str(pictures / "8.png"), "--out", str(out)]) == 0
    assert "predictions for 1 picture are in" in capsys.readouterr().out
    (row,) = json.loads(out.read_text())
    assert sum(row["probabilities"].values()) == pytest.approx(1)
    assert row["probability"] == max(row["probabilities"].values()) == row["probabilities"][row["class_name"]]


def test_a_table_is_for_the_terminal(run: Run, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(run.path), str(pictures / "8.png")]) == 0
    assert "nearest prototype" in capsys.readouterr().out


@pytest.fixture
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("notes.txt").write_text("no picture")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing.png"], "there is no picture nothing.png"),
        (["shots/none*.png"], "there is no picture shots/none"),
        (["empty"], "folder empty holds no pictures"),
        (["notes.txt"], "notes.txt cannot be read as an image"),
        (["notes.txt", "--out", "x.txt"], "a table goes to the terminal"),
        (["notes.txt", "--batch-size", "0"], "--batch-size 0 must be at least 1"),
        (["notes.txt", "--weights", "first"], "--weights 'first' of a run is unknown"),
    ],
)
@pytest.mark.usefixtures("_elsewhere")
def test_a_mistake_is_one_line(words: list[str], said: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(run.path), *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_logits_that_say_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="logits for image 3 are no numbers"):
        pa.predict(
            lambda x: torch.where(x.mean((1, 2, 3), keepdim=True)[:, :, 0, 0] > 0.5, torch.nan, torch.ones(len(x), 2)),
            [torch.zeros(1, 8, 8)] * 3 + [torch.ones(1, 8, 8)],
            preprocess=pa.Preprocess((1, 8, 8)),
            class_names=["a", "b"],
            batch_size=2,
        )
    with pytest.raises(ValueError, match="3 logits, and there are 2 class names"):
        pa.predict(
            lambda x: torch.zeros(len(x), 3),
            torch.zeros(1, 1, 8, 8),
            preprocess=pa.Preprocess((1, 8, 8)),
            class_names=["a", "b"],
        )
