"""Exported files say what the model says, of any batch and under attack, and run no code when they are read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import protoat as pa
from protoat.cli import main
from protoat.functional.forward import as_module
from protoat.runs.run import Run
from protoat.sharing.export import _to_safetensors, agreement
from protoat.sharing.exported import Facts
from protoat.storage import files
from protoat.types import Output

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
ZOO = Path(pa.__file__).parent / "zoo"
ROOT = Path(__file__).parents[2]
IMAGES = pa.Digits().load("test").pixels(slice(7))
THREAT = pa.Linf(0.3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run") / "digits | one"
    shutil.copytree(ZOO / "digits-2", folder)
    for name in ("evaluation.json", "audit.json"):
        (folder / name).unlink()
    return Run(folder)


@pytest.fixture(scope="module")
def served(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("served") / "served"
    words = ["export", str(run.path), "--format", "onnx", "torch", "safetensors", "--out", str(out), "--n", "16"]
    assert main(words) == 0
    return out


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
def test_a_file_says_what_the_model_says_of_any_batch(name: str, run: Run, served: Path) -> None:
    exported = pa.Exported(served / name)
    for batch in (IMAGES, IMAGES[:1]):
        with torch.no_grad():
            ours, theirs = run.model(batch), exported(batch)
        torch.testing.assert_close(theirs.logits, ours.logits, atol=1e-4, rtol=0)
        torch.testing.assert_close(theirs.embedding, ours.embedding, atol=1e-4, rtol=0)
    assert exported.class_names == tuple(run.class_names)
    assert exported.facts.preprocess == run.preprocess
    large = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert exported.predict(large)[0].probability == pytest.approx(run.predict(large)[0].probability, abs=1e-5)


def test_a_file_is_read_once(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(*args: object, **options: object) -> None:
        raise AssertionError("the file, which another process may have replaced meanwhile, is opened again")

    monkeypatch.setattr("safetensors.safe_open", again)
    monkeypatch.setattr("safetensors.torch.load_file", again)
    assert pa.Exported(served / "model.safetensors").class_names == ("0-4", "5-9")


def test_a_head_that_modes_asked_for_is_built_again(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(run.facts, "prototypes_per_class", [2, 3])
    model, file = run.untrained().eval(), tmp_path / "model.safetensors"
    file.write_bytes(_to_safetensors(model, Facts.of(run)))
    with torch.no_grad():
        assert torch.equal(pa.Exported(file)(IMAGES).logits, model(IMAGES).logits)


def test_adversarial_examples_of_one_fool_the_other(run: Run, served: Path) -> None:
    exported = as_module(pa.Exported(served / "model.onnx"))
    y = run.predict(IMAGES).labels
    on_file = pa.Square(THREAT, queries=100)(exported, IMAGES, y)
    on_model = pa.PGD(THREAT, steps=5)(run.model, IMAGES, y)
    assert not on_model.correct.all()
    for attacked in (on_file, on_model):
        assert torch.equal(exported(attacked.x_adv).logits.argmax(1) == y, attacked.correct)
        assert torch.equal(run.model(attacked.x_adv).logits.argmax(1) == y, attacked.correct)


def test_the_program_of_torch_keeps_batches_free_and_says_its_classes(run: Run, served: Path) -> None:
    more = {"protoat.json": ""}
    module = torch.export.load(served / "model.pt2", extra_files=more).module()
    for batch in (IMAGES, IMAGES[:1]):
        torch.testing.assert_close(module(batch), run.model(batch)._asdict())
    assert json.loads(more["protoat.json"])["class_names"] == run.class_names


_PROGRAMS = re.findall(r"```python\n(import json.*?)```", (ROOT / "docs/serving.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("program", _PROGRAMS, ids=["onnx", "torch"])
def test_ten_lines_of_the_guide_serve_it_without_protoat(program: str, run: Run, served: Path, tmp_path: Path) -> None:
    pictures = [tmp_path / f"{number}.png" for number in range(5)]
    for image, path in zip(pa.Digits().load("test").images, pictures, strict=False):
        Image.fromarray(image[0].numpy()).resize((20, 13)).save(path)
    script = "import sys\nsys.modules['protoat'] = None\nfor name in sys.argv[1:]:\n" + textwrap.indent(program, "    ")
    done = subprocess.run(
        [sys.executable, "-c", script.replace('Image.open("a.png")', "Image.open(name)"), *map(str, pictures)],
        check=True,
        capture_output=True,
        text=True,
        cwd=served.parent,
    )
    assert done.stdout.split() == [run.predict(path)[0].class_name for path in pictures]


def test_the_card_says_what_is_known_and_what_is_not(run: Run, served: Path) -> None:
    card = (served / "README.md").read_text()
    assert "# digits \\| one" in card
    assert run.weights().sha256 in card
    for said in ("Not measured", "Not audited", "| model.pt2 | 16 test images |", "trained by protoat for linf 0.1"):
        assert said in card


@pytest.mark.parametrize("spoiled", ["scaled", "another class", "not a number"])
def test_a_file_that_does_not_agree_is_refused(spoiled: str, run: Run) -> None:
    def other(x: Tensor) -> Output:
        logits, embedding = run.model(x)
        spoil = {
            "scaled": lambda: logits * 1.01,
            "another class": lambda: logits.flip(1),
            "not a number": lambda: logits * torch.nan,
        }
        return Output(spoil[spoiled](), embedding)

    assert agreement(run, run.model, IMAGES, real=True, name="x").largest < 1e-5
    with pytest.raises(ValueError, match=r"model.onnx does not agree with the model on images as they are"):
        agreement(run, other, IMAGES, real=True, name="model.onnx")


def test_nothing_is_written_where_one_file_fails(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.export, "save", lambda *_args, **_options: None)
    with pytest.raises(Exception):  # noqa: B017 - of torch, which cannot read an empty file
        pa.export(run, tmp_path / "out", formats=["safetensors", "torch"], images=2)
    assert not (tmp_path / "out").exists()
    assert main(["export", str(run.path), "--n", "0", "--out", str(tmp_path / "out")]) == 2
    assert "--n 0 must be at least 1" in capsys.readouterr().err
    with pytest.raises(ValueError, match="format 'tflite' is unknown; write onnx, torch, safetensors"):
        pa.export(run, tmp_path / "out", formats=["tflite"])


def test_files_of_the_user_are_not_overwritten(run: Run, tmp_path: Path) -> None:
    own = tmp_path / "README.md"
    own.write_text("my project\n")
    with pytest.raises(ValueError, match=r"README.md, which is of no export; choose another folder"):
        pa.export(run, tmp_path, formats=["safetensors"], images=2)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert own.read_text() == "my project\n"
    own.unlink()
    for name in ("model.onnx", "model.safetensors"):
        (tmp_path / name).write_bytes(b"years of work")
        with pytest.raises(ValueError, match=f"{name}, which is of no export; choose another folder"):
            pa.export(run, tmp_path, formats=["safetensors"], images=2)
        assert (tmp_path / name).read_bytes() == b"years of work"
        (tmp_path / name).unlink()
    pa.export(run, tmp_path, formats=["safetensors"], images=2)
    pa.export(run, tmp_path, formats=["safetensors"], images=2)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"notes.txt, which is of no export"):
        pa.export(run, tmp_path, formats=["safetensors"], images=2)


def test_an_export_that_was_killed_is_made_again(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(folder: files.Folder, name: str, content: bytes) -> None:
        (folder.path / name).write_bytes(content[:9])
        if folder.path == tmp_path and name == f".{dying}.partial":
            os.link(folder.path / name, tmp_path / "kept")  # it is removed on the way out, and not by a kill
            raise KeyboardInterrupt
        (folder.path / name).write_bytes(content)

    for dying in ("README.md", "model.safetensors"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(files.Folder, "write_new", killed)
            pa.export(run, tmp_path, formats=["safetensors"], images=2)
        (tmp_path / "kept").rename(tmp_path / f".{dying}.partial")
    assert "This export has not ended" in (tmp_path / "README.md").read_text()
    assert not (tmp_path / "model.safetensors").exists()
    (tmp_path / ".model.onnx.partial").touch()
    pa.export(run, tmp_path, formats=["safetensors"], images=2)
    assert "has not ended" not in (tmp_path / "README.md").read_text()
    assert pa.Exported(tmp_path / "model.safetensors").class_names == tuple(run.class_names)


def _with_facts(source: Path, target: Path, text: str) -> Path:
    model = onnx.load(source)
    model.metadata_props[0].value = text
    onnx.save(model, target)
    return target


def test_files_of_others_are_refused_in_words(served: Path, tmp_path: Path) -> None:
    facts = json.loads(onnx.load(served / "model.onnx").metadata_props[0].value)
    for text in ("", "[]", "{}", json.dumps(facts | {"class_names": []}), json.dumps(facts | {"preprocess": {}})):
        with pytest.raises(ValueError, match="not exported by protoat, or is damaged"):
            pa.Exported(_with_facts(served / "model.onnx", tmp_path / "model.onnx", text))
    model = onnx.load(served / "model.onnx")
    weight = model.graph.initializer[0]
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/etc/passwd")
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="names other files for its weights"):
        pa.Exported(tmp_path / "model.onnx")
    for name in ("model.onnx", "model.safetensors"):
        (tmp_path / name).write_bytes((served / name).read_bytes()[:200])
        with pytest.raises(ValueError, match=r"damaged|not a whole safetensors file"):
            pa.Exported(tmp_path / name)
    with pytest.raises(ValueError, match="there is no file"):
        pa.Exported(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match=r"only .onnx and .safetensors are read, as a .pt2 file can run code"):
        pa.Exported(served / "model.pt2")


def test_a_recipe_inside_a_file_runs_no_code(served: Path, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(served / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        facts = json.loads(file.metadata()["protoat"])
    facts["recipe"] = facts["recipe"].replace("protoat.models.LeNet", "os.system")
    save_file(tensors, tmp_path / "model.safetensors", {"protoat": json.dumps(facts)})
    with pytest.raises(ValueError, match=r"os\.system"):
        pa.Exported(tmp_path / "model.safetensors")


def test_a_network_that_returns_logits_alone_has_no_embedding() -> None:
    from protoat.sharing.export import _Named

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    found = _Named(net)(IMAGES)
    assert found.keys() == {"logits"} and torch.equal(found["logits"], net(IMAGES))
