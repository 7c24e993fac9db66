"""Networks of the user's own lie in the working directory; what comes with a run is never run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from torch import nn

import protoat
from protoat.cli import main
from protoat.errors import UserError
from protoat.recipes.own_code import allowing_own_code, working_directory_on_path
from protoat.recipes.reading import read_recipe, recipe_from_text
from tests.whole import edit

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes: int, in_channels: int, image_size: int):
        super().__init__(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))

def build(num_classes, in_channels, image_size) -> nn.Module:
    return Net(num_classes, in_channels, image_size)

def unsaid(num_classes, in_channels, image_size):
    return Net(num_classes, in_channels, image_size)
"""
SHORT = ["--epochs", "1", "--schedule", "none", "--method.steps", "1", "--regularizer", "none"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a network of the user's, which no other test has seen."""
    (tmp_path / "own_networks.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    return tmp_path


def stored_run(folder: Path, network: str) -> Path:
    """A run folder, as far as it takes to read its recipe, with this network."""
    folder.mkdir(parents=True)
    recipe = yaml.safe_load(read_recipe("digits-2").text) | {"model": {"class_path": network}}
    edit(folder / "recipe.yaml", yaml.safe_dump(recipe))
    edit(folder / "run.json", '{"num_classes": 2, "shape": [1, 8, 8], "class_names": ["a", "b"], "mode_names": []}')
    return folder


NAMED = NET.replace("image_size: int):", "image_size: int, name: str = '', names: list[str] | None = None):")
PLAIN_TEXTS = ["two words", "8/255", "yes", ""]
ODD_TEXTS = ["a: b", "[x", "'q'", "a\nb", "1e5", "none"]


@pytest.mark.parametrize("text", [*PLAIN_TEXTS, *ODD_TEXTS, ["a: b"]], ids=str)
def test_an_argument_comes_back_from_the_recipe_or_no_run_is_begun(here: Path, text: str | list[str]) -> None:
    (here / "own_networks.py").write_text(NAMED)
    name = "name" if isinstance(text, str) else "names"
    choice = {"model": {"class_path": "own_networks.Net", "init_args": {name: text}}}
    with working_directory_on_path():
        try:
            recipe = read_recipe("digits-2", choice)
        except UserError as error:
            assert text not in PLAIN_TEXTS
            assert "no run could be read from its recipe again" in str(error) and "\n" not in str(error)
        else:
            assert recipe_from_text(recipe.text, trust=recipe.trust).model.keywords[name] == text


def test_a_network_of_the_working_directory_is_trained_and_evaluated(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = list(sys.path)
    trained = ["train", "--model", "own_networks.Net", *SHORT, "--out", "own"]
    assert main(trained) == 0
    monkeypatch.delitem(sys.modules, "own_networks")  # as in a process of its own
    assert main(trained) == 0
    assert "own is complete already" in capsys.readouterr().out
    monkeypatch.delitem(sys.modules, "own_networks")
    assert main(["evaluate", "own", "--attacks", "clean", "--n", "20"]) == 2
    assert "own/recipe.yaml names own_networks.Net (model)" in (line := capsys.readouterr().err)
    assert "--trust own_networks.Net" in line and "own_networks" not in sys.modules
    for words in (["--trust", "own_networks.Net"], ["--trust=own_networks.Net"]):
        monkeypatch.delitem(sys.modules, "own_networks", raising=False)
        assert main(["evaluate", "own", "--attacks", "clean", "--n", "20", *words]) == 0
        assert "do so: protoat audit own --trust own_networks.Net\n" in capsys.readouterr().out
    assert sys.path == path
    with pytest.raises(ValueError, match=r"names own_networks\.Net .*trust=\['own_networks\.Net'\]"):
        _ = protoat.Run("own").model
    monkeypatch.syspath_prepend(here)
    own = protoat.Run("own", trust=["own_networks.Net"])
    assert (own.recipe.epochs, own.weights().path.parent) == (1, Path("own")) and not own.model.training
    monkeypatch.delitem(sys.modules, "own_networks")
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    monkeypatch.setattr(sys, "path", path)
    capsys.readouterr()
    assert main(["evaluate", "../own", "--attacks", "clean", "--trust", "own_networks.Net"]) == 2
    line = capsys.readouterr().err
    assert "model own_networks.Net cannot be used: No module named 'own_networks'; run the command in the" in line


def test_own_code_is_the_users_word_in_every_door(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(here)
    own = read_recipe("digits-2", ["--model", "own_networks.Net"])
    assert own.trust == ("own_networks.Net",)
    (here / "mine.yaml").write_text(own.text)
    monkeypatch.delitem(sys.modules, "own_networks")
    with pytest.raises(ValueError, match=r"names own_networks\.Net"):
        read_recipe("mine.yaml")
    with pytest.raises(ValueError, match=r"names own_networks\.Net"):
        recipe_from_text(own.text, trust=["own_networks.build", "own.Net"])
    assert "own_networks" not in sys.modules
    for recipe in (
        read_recipe("mine.yaml", trust=["own_networks.Net"]),
        read_recipe("mine.yaml", ["--model", "own_networks.Net"]),
        read_recipe("mine.yaml", ["--trust", "own_networks.Net"]),
        recipe_from_text(own.text, trust=["own_networks.Net"]),
    ):
        assert (recipe.text, recipe.trust) == (own.text, own.trust)
    for trust, message in (("own_networks.Net", "one text"), (["Net"], "no dotted name"), (["a.b; c"], "no dotted")):
        with pytest.raises(ValueError, match=message):
            read_recipe("mine.yaml", trust=trust)


def test_train_takes_both_spellings_of_a_class_or_builder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(here)
    dotted, colon = (read_recipe("digits-2", ["--model", f"own_networks{mark}Net"]) for mark in ".:")
    assert dotted.text == colon.text
    assert isinstance(read_recipe("digits-2", ["--model", "own_networks:build"]).model(2, 1, 8), nn.Sequential)
    with pytest.raises(ValueError, match=r"own_networks\.unsaid does not say that it .*; annotate it: -> nn\.Module"):
        read_recipe("digits-2", ["--model", "own_networks.unsaid"])
    with pytest.raises(ValueError, match="model 'own_networks' is unknown; write one of LeNet"):
        read_recipe("digits-2", ["--model", "own_networks:"])


@pytest.mark.parametrize(
    ("folder", "planted", "network"),
    [
        ("runs/theirs", "runs/theirs/planted.py", "runs.theirs.planted.Net"),
        ("runs/theirs", "runs/others/planted.py", "runs.others.planted.Net"),
        ("sent/run", "sent/planted.py", "sent.planted.Net"),
        (".", "planted.py", "planted.Net"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate {}", "audit {}", "figure 1 {}", "train --config {}/recipe.yaml"])
def test_code_that_came_with_a_run_is_not_imported(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    folder: str,
    planted: str,
    network: str,
    command: str,
) -> None:
    home = here / "home"
    stored_run(home / folder, network)
    (home / planted).parent.mkdir(parents=True, exist_ok=True)
    for package in {(home / planted).parent, home / Path(planted).parts[0]} - {home, home / "planted.py"}:
        (package / "__init__.py").write_text(f"open({str(here / 'imported')!r}, 'w')")
    (home / planted).write_text(f"open({str(here / 'imported')!r}, 'w')\n{NET}")
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(home)  # as ``python -m`` has it
    for name in [name for name in sys.modules if name.split(".")[0] in ("runs", "sent", "planted")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(command.format(folder).split()) == 2
    assert f"names {network}" in capsys.readouterr().err
    assert not (here / "imported").exists()


def test_the_working_directory_is_on_the_path_where_code_of_ones_own_is_named(here: Path) -> None:
    for args, on_path in (
        ("evaluate runs/a", False),
        ("evaluate runs/a --trust own_networks.Net", True),
        ("train --model own_networks:Net", True),
        ("train --data.root own_networks.Net --config own.yaml", False),
        ("evaluate runs/a --attacks clean own_networks.Attack", True),
    ):
        with allowing_own_code(args.split()):
            assert (sys.path[-1] == "") == on_path, args
        assert "" not in sys.path
