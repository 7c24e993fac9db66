"""Compute budgets of tables and figures, as overlays on recipes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from protoat.errors import UserError
from protoat.names import nearest
from protoat.recipes.overrides import overlay
from protoat.storage.files import read_bytes
from protoat.storage.parsing import parse_yaml

_SHIPPED = Path(__file__).parent / "budgets"
_LONGEST = 2**18  # bytes of a file
_KEYS = ("about", "images", "attacks", "checks", "train", "pretrain", "recipes")


@dataclass(frozen=True)
class Budget:
    """What a budget makes of every recipe.

    Attributes:
        name: of the shipped budget, or of the user's file.
        about: one line that every table prints.
        images: test images that are measured, None for all.
        attacks: shorter attacks that stand in for long ones, by name.
        checks: numbers of the checks that an audit makes, None for all.
        reproduction: whether recipes stay as the paper has them; true of `paper` only.
        train, pretrain: changes of every recipe with and without labels, as a recipe file holds them.
        recipes: further changes of single recipes, by name, beside those of `train` or `pretrain`: of one class all
            arguments count, of another one only its own.
    """

    name: str
    about: str
    images: int | None = None
    reproduction: bool = False
    attacks: Mapping[str, str] = field(default_factory=dict)
    checks: tuple[str, ...] | None = None
    train: Mapping[str, Any] = field(default_factory=dict)
    pretrain: Mapping[str, Any] = field(default_factory=dict)
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def overrides(self, recipe: str, *, pretrains: bool = False, keep: Collection[str] = ()) -> dict[str, Any]:
        """What it changes of a recipe, as plain values.

        Args:
            recipe: name of the recipe of a data set, or path of a file.
            pretrains: whether it is for ``protoat pretrain``.
            keep: keys that stay as they are without the budget.

        >>> Budget("mine", "", train={"epochs": 2}, recipes={"cifar10": {"batch_size": 64}}).overrides("cifar10")
        {'epochs': 2, 'batch_size': 64}
        """
        changes = overlay(self.pretrain if pretrains else self.train, self.recipes.get(Path(recipe).stem, {}))
        return {key: value for key, value in changes.items() if key not in keep}


def budget_names() -> list[str]:
    """Names of the shipped budgets.

    >>> budget_names()
    ['cpu', 'paper', 'smoke']
    """
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def read_budget(name_or_path: str) -> Budget:
    """A budget by name, or from a file of the same form.

    Raises:
        ValueError: an unknown name, no such file, or a file that is no budget or changes what no recipe has.

    >>> read_budget("smoke").reproduction, read_budget("paper").reproduction
    (False, True)
    """
    path = _SHIPPED / f"{name_or_path}.yaml" if name_or_path in budget_names() else Path(name_or_path)
    if not path.is_file():
        hint = f"{nearest(name_or_path, budget_names())} (a file of your own is named by its path)"
        raise UserError(f"budget {name_or_path!r} is unknown; {hint}")
    try:
        content = parse_yaml(read_bytes(path.resolve(), limit=_LONGEST))
    except ValueError as error:
        raise UserError(f"{path} is no YAML: {error}") from error
    _check(path, content)
    if path.parent != _SHIPPED:
        from protoat.recipes.allow_list import without_downloads  # torch takes seconds to import

        content = without_downloads(content)
    if content.get("checks") is not None:
        content["checks"] = tuple(content["checks"])
    budget = Budget(path.stem, reproduction=path == _SHIPPED / "paper.yaml", **content)
    if path.parent != _SHIPPED:
        _check_changes(path, budget)
    return budget


def _check(path: Path, content: Any) -> None:
    if not isinstance(content, Mapping) or not isinstance(content.get("about"), str):
        raise UserError(f"{path} is no budget; write about: with one line that says what it does, then images, train")
    if unknown := [str(key) for key in content if key not in _KEYS]:
        raise UserError(f"{path}: key {unknown[0]!r} is unknown; {nearest(unknown[0], _KEYS)}")
    images = content.get("images")
    if images is not None and (not isinstance(images, int) or isinstance(images, bool) or not 0 < images < 2**63):
        raise UserError(f"{path}: images={images} is not valid; write a number of test images, or leave it out for all")
    if not isinstance(content.get("checks") or [], list):
        raise UserError(f"{path}: checks={content['checks']} is not valid; write a list such as [A1, C15]")
    if wrong := [check for check in content.get("checks") or [] if not re.fullmatch(r"\w+", str(check))]:
        raise UserError(f"{path}: checks has {str(wrong[0])[:60]!r}; write a list such as [A1, C15]")
    sections = {key: content[key] for key in ("attacks", "train", "pretrain", "recipes") if key in content}
    inner = sections.get("recipes", {})
    for key, section in {**sections, **(inner if isinstance(inner, Mapping) else {})}.items():
        if not isinstance(section, Mapping):
            raise UserError(f"{path}: {key} holds {section!r}, expected keys and values as in a recipe")


def _check_changes(path: Path, budget: Budget) -> None:
    """Refuses changes that no recipe takes, so that it is said once, with the place, and not for each run.

    The file comes from outside, so it names what a recipe may, and no more.
    """
    from protoat.paper.mode_rows import DATA
    from protoat.recipes.allow_list import check_names  # torch takes seconds to import
    from protoat.recipes.reading import read_recipe
    from protoat.recipes.recipe import KEYS
    from protoat.recipes.shipped import is_of_pretraining, recipe_names

    of_one = [(f"recipes, {name}", changes) for name, changes in budget.recipes.items()]
    for section, changes in (("train", budget.train), ("pretrain", budget.pretrain), *of_one):
        check_names(changes, f"{path}, {section}", keys=KEYS)
    for name in budget.attacks.values():
        if not re.fullmatch(r"\w[\w:@/.-]*", str(name)) or "." in re.split("[/@:]", str(name))[0]:
            raise UserError(f"{path}, attacks: {name!r} is not the short name of an attack, such as pgd10")
    known = {name: name for name in recipe_names()} | {data.in_budgets: data.recipe for data in DATA}
    if unknown := [name for name in budget.recipes if name not in known]:
        raise UserError(f"{path}, recipes: {unknown[0]!r} is unknown; {nearest(unknown[0], known)}")
    general = replace(budget, recipes={})
    tried = [
        ("train", general, "cifar10", False),
        ("pretrain", general, "cifar10-acl", True),
        *((f"recipes, {name}", budget, name, is_of_pretraining(known[name])) for name in budget.recipes),
    ]
    for section, changed, name, pretrains in tried:
        try:
            read_recipe(known[name], changed.overrides(name, pretrains=pretrains))
        except ValueError as error:
            raise UserError(f"{path}, {section}: {error}") from error
