"""Recipes of strangers: none of them runs code, whatever it names and wherever it comes in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from protoat.cli import main
from protoat.paper.budget import read_budget
from protoat.recipes.allow_list import allowed_names
from protoat.recipes.choices import CLASSES
from protoat.recipes.own_code import CLASS_KEYS
from protoat.recipes.reading import read_recipe, recipe_from_text
from protoat.recipes.recipe import KEYS
from protoat.runs.fingerprint import fingerprint_of_folder
from protoat.runs.run import Run
from protoat.runs.train import train

RUN = "accelerate.test_utils.testing.run_command"
TOUCH = f"{{class_path: {RUN}, init_args: {{command: [touch, PWNED]}}}}"
DAMAGED = "recipe.yaml is damaged"  # said of a run folder by the schema of records, before its recipe is read at all
# What is laid over the text of digits-2, and a word of the line with which it is refused.
CRAFTED = {
    "a function as a loss": (f"method: {{class_path: PGDAT, init_args: {{loss: {TOUCH}}}}}", RUN),
    "a function as a loss, in short": (f"method: {{class_path: PGDAT, init_args: {{loss: {RUN}}}}}", RUN),
    "a function as a method": (f"method: {TOUCH}", RUN),
    "a method inside a method": (f"method: {{class_path: AWP, init_args: {{method: {TOUCH}}}}}", RUN),
    "a method inside two methods": (
        "method: {class_path: AWP, init_args: {method: {class_path: AWP, init_args: {method: os.system}}}}",
        "os.system",
    ),
    "a pickle as a model": (
        "model: {class_path: torch.load, init_args: {f: evil.pt, weights_only: false}}",
        "torch.load",
    ),
    "a pickle as a model, in short": ("model: torch.load", "torch.load"),
    "a shell as a model": ("model: os.system", "os.system"),
    "a module that lies here": ("model: planted.Net", "planted.Net"),
    "a class of torch that is no network of ours": ("model: torch.nn.Linear", "torch.nn.Linear"),
    "the same by its short name": ("model: {class_path: Linear}", "Linear"),
    "what removes runs": (
        "data: {class_path: protoat.runs.cleanup.remove, init_args: {folder: .}}",
        "cleanup.remove",
    ),
    "our own command line": (
        "data: {class_path: protoat.cli.main, init_args: {args: [rm, --yes, .]}}",
        "protoat.cli.main",
    ),
    "what writes files": ("data: {class_path: protoat.storage.files.write}", "protoat.storage.files.write"),
    "a module that ours imports": ("data: {class_path: protoat.data.folder.os.system}", "os.system"),
    "a class of ours of another kind": ("method: protoat.data.MNIST", "protoat.data.MNIST"),
    "a function of ours that is no loss": (
        "method: {class_path: PGDAT, init_args: {loss: protoat.functional.margins.margins}}",
        "margins",
    ),
    "a schedule": ("schedule: {class_path: subprocess.run, init_args: {args: [touch, PWNED]}}", "subprocess.run"),
    "an averaging": ("averaging: {class_path: planted.Net}", "planted.Net"),
    "a regularizer": ("regularizer: {class_path: planted.Net, init_args: {}}", "planted.Net"),
    "an optimizer": ("optimizer: {class_path: planted.Net}", "planted.Net"),
    "a tensor for a rate": (
        "optimizer: {class_path: SGD, init_args: {lr: {class_path: torch.load, init_args: {f: evil.pt}}}}",
        "torch.load",
    ),
    "the same by its short name again": (
        "optimizer: {class_path: SGD, init_args: {lr: {class_path: Parameter}}}",
        "Parameter",
    ),
    "a tensor among betas": ("optimizer: {class_path: Adam, init_args: {betas: [torch.load, 0.9]}}", "torch.load"),
    "other images beside ours": (
        "method: {class_path: BiaMAT, init_args: {auxiliary: {class_path: planted.Net}}}",
        "planted.Net",
    ),
    "a view": ("method: {class_path: ACL, init_args: {view: planted.Net}}", "planted.Net"),
    "a class in an option's way of writing": ("model.class_path: planted.Net", "planted.Net"),
    "the same for an argument": ("method.init_args.loss: os.system", "os.system"),
    "and without init_args": ("method.loss: os.system", "os.system"),
    "one that is appended": ("method: {class_path: PGDAT, init_args: {loss+: os.system}}", "os.system"),
    "free arguments": ("model: {class_path: LeNet, dict_kwargs: {x: {class_path: os.system}}}", "os.system"),
    "YAML inside a text": ("method: '{class_path: os.system}'", "os.system"),
    "YAML inside a text for a number": ("weight: '{class_path: os.system}'", "os.system"),
    "a name in quotes inside a text": ("method: {class_path: PGDAT, init_args: {steps: '\"os.system\"'}}", "os.system"),
    "a dot that is written as its number": (
        r"""method: {class_path: PGDAT, init_args: {steps: '"os\x2esystem"'}}""",
        "method.steps",
    ),
    "the same in YAML that only the parser takes, by a set": (
        r"""optimizer: {class_path: SGD, init_args: {lr: '{class_path: "planted\x2eNet", init_args: !!set {a}}'}}""",
        "optimizer.lr",
    ),
    "the same by a date": (
        r"""schedule: {class_path: TorchSchedule, init_args: {scheduler: """
        r"""'{class_path: "planted\x2eNet", init_args: {x: 2020-01-01}}'}}""",
        "schedule.scheduler",
    ),
    "the same by bytes in a key": (
        r"""optimizer: {class_path: Adam, init_args: {eps: '{class_path: "planted\x2eNet", !!binary aGk=: 1}'}}""",
        "optimizer.eps",
    ),
    "a group that is a file": ("threat: /etc/passwd", "threat"),
    "a group that is a file here": ("augment: planted", "augment"),
    "a group that is a class": ("initialise: {class_path: planted.Net}", "planted.Net"),
    "a further recipe": ("config: planted.yaml", "config"),
    "help for a class": ("method.help: os.system", "help"),
    "what a parser writes for itself": ("method: {__path__: planted.yaml, class_path: PGDAT}", "__path__"),
    "the same inside": ("method.init_args.__path__: planted.yaml", "__path__"),
    "a schema": ("$schema: 'http://localhost/planted'", "$schema"),
    "thousands of keys": (f"weight: {{{', '.join(f'k{number}: 1' for number in range(9000))}}}", "keys"),
    "an option as a value": (
        "data: {class_path: Digits, init_args: {root: --model=planted.Net}}",
        "--model=planted.Net",
    ),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory in which a stranger has left code that leaves a mark when it is imported or called."""
    mark = tmp_path / "PWNED"
    (tmp_path / "planted.py").write_text(f"open({str(mark)!r}, 'w')\nclass Net: pass\n")
    (tmp_path / "planted.yaml").write_text("model: planted.Net")
    (tmp_path / "planted").write_text("flip: false")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    assert not mark.exists()
    assert not {"planted", "accelerate.test_utils.testing"} & (set(sys.modules) - before)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of ours."""
    folder = tmp_path_factory.mktemp("runs") / "ours"
    short = ["--epochs", "1", "--schedule", "none", "--method.steps", "1", "--regularizer", "none"]
    train(read_recipe("digits-2", short), folder)
    return folder


def changes(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load(f"{{{CRAFTED[name][0]}}}"))


def crafted(name: str) -> str:
    """The text of a whole recipe with one of `CRAFTED` in it."""
    return yaml.safe_dump(yaml.safe_load(read_recipe("digits-2").text) | changes(name))


def stored(folder: Path, text: str) -> Path:
    """A run folder, as far as it takes to read its recipe."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(text)
    (folder / "run.json").write_text(
        '{"num_classes": 2, "shape": [1, 8, 8], "class_names": ["a", "b"], "mode_names": []}'
    )
    save_file({"x": torch.zeros(1)}, folder / "last.safetensors")
    return folder


@pytest.mark.parametrize("name", CRAFTED)
def test_nothing_that_a_recipe_names_is_run(here: Path, name: str) -> None:
    text, word = crafted(name), CRAFTED[name][1]
    folder = stored(here / "theirs", text)
    for read in (
        lambda: recipe_from_text(text),
        lambda: Run(folder).recipe,
        lambda: read_recipe(folder / "recipe.yaml"),
        lambda: read_recipe(folder / "recipe.yaml", ["--method", "FreeAT"]),
        lambda: Run(folder).model,
    ):
        with pytest.raises(ValueError) as caught:
            read()
        line = str(caught.value)
        assert (word in line or DAMAGED in line) and "\n" not in line and len(line) < 600


NAMES = ("a function as a loss", "a module that lies here", "a pickle as a model", "YAML inside a text")
COMMANDS = (
    "evaluate theirs",
    "evaluate theirs --linear-probe",
    "audit theirs",
    "audit {ours} --surrogate theirs",
    "evaluate {ours} --attacks transfer:theirs",
    "figure 1 theirs",
    "train --config theirs/recipe.yaml",
    "train --config digits-2 --config theirs/recipe.yaml",
    "train --config digits-2 --initialise.run theirs",
    "pretrain --config theirs/recipe.yaml",
    "table 2 --budget budget.yaml",
    "figure 1 --budget budget.yaml",
)


@pytest.mark.parametrize(
    ("name", "command"), [(NAMES[(place + turn) % 4], each) for place, each in enumerate(COMMANDS) for turn in (0, 1)]
)
def test_no_command_runs_what_a_recipe_names(
    here: Path, ours: Path, capsys: pytest.CaptureFixture[str], *, name: str, command: str
) -> None:
    stored(here / "theirs", crafted(name))
    (here / "budget.yaml").write_text(yaml.safe_dump({"about": "theirs", "train": changes(name)}))
    before = sorted(here.rglob("*"))
    assert main(command.format(ours=ours).split()) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and (CRAFTED[name][1] in line or DAMAGED in line)
    assert sorted(here.rglob("*")) == before


def test_every_shipped_name_is_allowed_and_nothing_else() -> None:
    assert set(CLASS_KEYS) == {*CLASSES, "loss"}
    assert {"data", "model", "method", "optimizer", "schedule", "averaging", "regularizer"} <= set(KEYS)
    for key in CLASS_KEYS:
        for name in allowed_names(key):
            home = name.rpartition(".")[0]
            assert home in ("",) or home.split(".")[0] == "protoat" or home.startswith("torch.optim"), name
    assert {"LARS", "torch.optim.SGD", "torch.optim.sgd.SGD"} <= allowed_names("optimizer")
    assert not {"LBFGS", "torch.optim.LBFGS", "Optimizer"} & allowed_names("optimizer")
    assert "protoat.pretraining.ACL" in allowed_names("method")


def test_no_name_of_a_folder_is_a_word_for_code(here: Path, ours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stranger chooses the name of what one downloads, so it is not what the user has named."""
    (here / "planted").unlink()
    for name in ("planted.Net", "planted"):
        stored(here / name, crafted("a module that lies here"))
    for command in (
        "evaluate --trust mymodels.Net planted.Net",
        "evaluate --attacks clean --n 5 planted.Net",
        f"evaluate {ours} --attacks transfer:planted",
        "evaluate --head=logits planted.Net",
    ):
        assert main(command.split()) == 2
        assert "names planted.Net" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["data.init_args.download", "data.download", "data.init_args.download+"])
def test_a_recipe_does_not_make_data_be_downloaded(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, key: str
) -> None:
    def fetch(self: Any) -> None:
        raise AssertionError(f"{self.root} would be written to")

    monkeypatch.setattr("protoat.data.base.Source.fetch", fetch)
    text = yaml.safe_load(read_recipe("mnist").text)
    text["data"] = {"class_path": "MNIST", "init_args": {"root": "theirs"}}
    flat = yaml.safe_dump({**text, key: True})
    nested = yaml.safe_dump({**text, "data": {"class_path": "MNIST", "init_args": {"root": "x", "download": "true"}}})
    for number, content in enumerate((flat, nested)):
        folder = stored(here / f"theirs{number}", content)
        assert recipe_from_text(content).data.download is False
        assert main(["train", "--config", str(folder / "recipe.yaml"), "--out", "out"]) == 2
        assert "protoat data MNIST --download" in capsys.readouterr().err
    assert read_recipe(here / "theirs0" / "recipe.yaml", ["--data.download", "true"]).data.download is True


def test_names_and_places_that_users_choose_are_taken_as_they_are() -> None:
    chosen = {
        "groups": {"model": ["0", "1"], "data": ["2", "3"], "Dr. Who: [x]": ["4", "5"], "loss": list("6789")},
        "data": {
            "class_path": "ImageFolder",
            "init_args": {"path": "./my.pictures/{a: b}", "classes": ["a.b", "[c]"], "background": "#fff"},
        },
        "threat": {"eps": "8/255"},
        "optimizer": {"class_path": "SGD", "init_args": {"lr": "1e-3"}},
        "checkpoint_every": "none",
    }
    recipe = recipe_from_text(yaml.safe_dump(yaml.safe_load(read_recipe("digits").text) | chosen))
    assert yaml.safe_load(recipe.text)["groups"] == chosen["groups"]
    assert recipe.data.classes == ["a.b", "[c]"]
    assert recipe.trust == ()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({"checks": ["--trust", "planted.Net"]}, "--trust"),
        ({"checks": [{"a": 1}]}, "checks"),
        ({"attacks": {"pgd10": "--trust"}}, "--trust"),
        ({"attacks": {"pgd10": "{class_path: planted.Net}"}}, "planted.Net"),
        ({"images": 10**400}, "images"),
        ({"train": {"groups": "--model=planted.Net"}}, "groups"),
        ({"recipes": {"mnist": {"trust": ["planted.Net"]}}}, "trust"),
    ],
)  # fmt: skip
def test_a_budget_adds_no_words_to_a_command(here: Path, *, content: dict[str, Any], word: str) -> None:
    (here / "budget.yaml").write_text(yaml.safe_dump({"about": "theirs", **content}))
    with pytest.raises(ValueError) as caught:
        read_budget(str(here / "budget.yaml"))
    assert word in str(caught.value) and "budget.yaml" in str(caught.value)


def test_what_a_budget_changes_is_not_the_word_of_the_user(here: Path) -> None:
    """Names of classes and places may look like code."""
    named = {"root": "planted.Net", "classes": ["planted.Net", "b"], "download": True}
    changes = {"data": {"class_path": "ImageFolder", "init_args": named}, "groups": "none"}
    (here / "budget.yaml").write_text(yaml.safe_dump({"about": "theirs", "train": changes}))
    overrides = read_budget(str(here / "budget.yaml")).overrides("mnist")
    recipe = read_recipe("mnist", overrides)
    assert recipe.data.classes == named["classes"]
    assert recipe.trust == ()
    assert "download" not in str(overrides)


def test_runs_that_start_from_one_another_have_no_identity(here: Path) -> None:
    text = yaml.safe_load(read_recipe("digits-2").text)
    for name, start in {"one": "two", "two": "three", "three": "one", "alone": "alone"}.items():
        choice = {"run": start, "weights": None, "branch": None, "head": "zero", "finetune": "all", "sha256": None}
        stored(here / name, yaml.safe_dump({**text, "initialise": choice}))
    for number in range(40):
        choice["run"] = f"long{number + 1}"
        stored(here / f"long{number}", yaml.safe_dump({**text, "initialise": choice}))
    assert fingerprint_of_folder(stored(here / "long40", yaml.safe_dump(text))) is not None
    for name in ("one", "three", "alone", "long0"):
        assert fingerprint_of_folder(Path(name)) is None
