"""The tables of ``docs/methods.md`` against what is counted, and against the classes there are."""

from __future__ import annotations

import re
from functools import partial
from inspect import signature
from pathlib import Path

import pytest

from benchmarks.passes import Passes, count
from protoat import methods, regularizers
from protoat.methods import CFA, PGDAT, TRADES
from protoat.recipes.reading import recipe_parser, resolve
from protoat.recipes.shipped import overlay_names
from protoat.runs.run import Run

GUIDE = (Path(__file__).parents[2] / "docs/methods.md").read_text()
KINDS = {name: getattr(methods, name) for name in recipe_parser().choices("method")}
METRIC = {name: getattr(regularizers, name) for name in recipe_parser().choices("regularizer") if name != "none"}
STEP = count(PGDAT)


def table(first: str) -> dict[str, list[str]]:
    """Cells after the first one, by the first one, of the table whose head begins so."""
    lines = GUIDE.partition(f"\n| {first} |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    return {row[0].replace("`", ""): row[1:] for row in rows}


def linear(text: str) -> tuple[int, int]:
    """``6k + 21`` as its two numbers."""
    slope, constant = re.fullmatch(r"(?:(\d+)k \+ )?(\d+)", text).groups()
    return int(slope or 0), int(constant)


@pytest.mark.parametrize("name", [*KINDS, "CFA with beta"])
def test_cost_of_a_method(name: str) -> None:
    kind = partial(CFA, beta=6.0) if name == "CFA with beta" else KINDS[name]
    _, k, forwards, to_images, to_weights, cost, ratio = table("method")[name]
    counted = count(kind)
    assert counted == Passes(int(forwards), int(to_images), int(to_weights))
    assert float(ratio) == round(counted.cost / STEP.cost, 2)
    formula, _, value = cost.partition(" = ")
    slope, constant = linear(formula)
    assert slope * int(k or 0) + constant == counted.cost == int(value or cost)
    if k and "steps" in signature(kind).parameters:
        assert count(partial(kind, steps=4)).cost == 4 * slope + constant


@pytest.mark.parametrize("name", METRIC)
def test_cost_of_a_regularizer(name: str) -> None:
    *_, forwards, to_weights, cost, ratio = table("regularizer")[name]
    counted = count(PGDAT, METRIC[name])
    assert counted.forwards - STEP.forwards == int(forwards)
    assert counted.to_weights - STEP.to_weights == int(to_weights)
    assert counted.to_images == STEP.to_images
    assert counted.cost - STEP.cost == int(cost)
    assert float(ratio) == round(counted.cost / STEP.cost, 2)


def test_what_the_text_says_of_clean_forwards() -> None:
    assert count(TRADES, METRIC["TLA"]).cost - count(TRADES).cost == 8
    assert count(partial(methods.AWP, method=TRADES)).cost - count(TRADES).cost == 6


def test_every_class_and_every_recipe_is_named() -> None:
    assert set(table("method")) == {*KINDS, "CFA with beta"}
    assert set(table("regularizer")) == set(METRIC)
    for name in ("trades", "mart", "cfa", "trades-cfa", "biamat", "single-mode"):
        assert name in overlay_names() and re.search(rf"`(--config )?{name}`", GUIDE)
    assert {name for name in table("recipe") if name} <= set(overlay_names())


def test_its_commands_are_read() -> None:
    commands = re.findall(r"^protoat train (.*?)(?: --out .*)?(?:  +#.*)?$", GUIDE, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        if ".help" not in command:
            words = ["--config", "digits", *command.replace("runs/clean", str(Run("zoo:digits-2").path)).split()]
            assert resolve(recipe_parser(), words)[0].text, command
