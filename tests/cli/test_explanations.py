"""``protoat train --method.help NAME``: each argument with its meaning and default, and where it all comes from."""

from __future__ import annotations

import re

import pytest

from protoat.cli import main
from protoat.recipes.reading import read_recipe, recipe_parser
from protoat.recipes.shipped import overlay_names, recipe_names
from protoat.runs.claims import A_RUN

PARTS = [(kind, name) for kind in ("method", "regularizer") for name in recipe_parser().choices(kind) if name != "none"]
# Clean training has no paper.
WITHOUT_SOURCE = ("Standard",)
# What a program says to itself, or a docstring to a reader of the code.
JARGON = ("``", "Callable", "class_path", "init_args", "known subclasses", "see `", "null", "protoat.methods.base")


@pytest.fixture
def explained(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Prints a help that must be there, with nothing broken into lines."""
    monkeypatch.setenv("COLUMNS", "10000")

    def run(*args: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["train", *args])
        assert stop.value.code == 0
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    "command", ["evaluate", "audit", "predict", "export", "push", "show", "report", "compare", "figure"]
)
def test_help_says_what_stands_for_a_run(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "10000")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert A_RUN in capsys.readouterr().out


def arguments(text: str) -> dict[str, str]:
    """Help of each option, by its name."""
    text = text.partition("\n\n")[2]  # without the usage
    found = re.findall(r"^  --([\w.]+)[^\n]*?(?:  +|\n {10,})(\S[^\n]*)", text, re.MULTILINE)
    return {name: line for name, line in found if not name.endswith(".help")}


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_argument_has_a_meaning_and_a_default(kind: str, name: str, explained) -> None:
    text = explained(f"--{kind}.help", name)
    found = arguments(text)
    assert len(found) == len(re.findall(r"^  --[\w.]+ ", text, re.MULTILINE)) - text.count(".help [") - text.count(
        ".help C"
    )
    assert found
    for option, line in found.items():
        meaning = line.partition(" (type: ")[0].partition(" (one of ")[0].partition(" (dotted path")[0]
        assert len(meaning.split()) >= 3, option
        assert "default: " in line or "one of " in line, option
    assert not [word for word in JARGON if word in text]
    assert ("\nSource: " in text) == (name not in WITHOUT_SOURCE)


def test_what_the_run_supplies_is_not_asked_for(explained) -> None:
    for kind, name in PARTS:
        found = arguments(explained(f"--{kind}.help", name))
        assert not {f"{kind}.{fact}" for fact in ("threat", "num_classes", "embedding_dim")} & set(found), name


def test_one_inside_another(explained) -> None:
    text = explained("--method.help", "AWP", "--method.method.help", "TRADES")
    assert "weight of the divergence (6 for CIFAR, 1 for MNIST)" in arguments(text)["method.method.beta"]
    assert re.search(r"one of .*AWP, BiaMAT, CFA, .*default: PGDAT", explained("--method.help", "AWP"))
    assert "one of CIFAR10, CIFAR100, Digits" in explained("--method.help", "BiaMAT")


def test_formulas_keep_their_lines(explained) -> None:
    assert "\n    T(a, p, n; m) = mean max(0, " in explained("--regularizer.help", "TLA")


def test_recipes_are_listed(explained) -> None:
    line = arguments(explained("--help"))["config"]
    listed = {name for name in recipe_names() if name in line}
    assert listed == {name for name in recipe_names() if not read_recipe(name).pretrains}
    assert all(name in line for name in overlay_names())
