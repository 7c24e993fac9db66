"""Jobs and tasks: a run that may not exist yet, and what is to be measured of it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from protoat.errors import UserError
from protoat.recipes.allow_list import foreign_names
from protoat.recipes.fingerprint import fingerprint, settings
from protoat.recipes.overrides import options, overlay
from protoat.recipes.own_code import trusting
from protoat.recipes.reading import read_recipe
from protoat.recipes.recipe import Recipe
from protoat.records import files
from protoat.runs.claims import is_half_removed
from protoat.runs.fingerprint import DIGITS, fingerprint_of_folder
from protoat.storage.parsing import parse_yaml

_SLUG = re.compile(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*")


@dataclass(frozen=True)
class Job:
    """A run as a table or figure asks for it, whether it exists yet or not.

    Args:
        name: letters, digits and "-", a part of the folder's name and none of the identity.
        config: names or paths of recipes, each laid over those before it.
        overrides: what is changed of them, as a recipe file has it. Of `initialise` it says how weights are taken over,
            not from where.
        start: run that comes first.
        takes: what it takes of that one: its ``"weights"``; or its ``"embeddings"``, in which modes are discovered.

    Raises:
        ValueError: a name of other characters.

    >>> one = Job("digits", ("digits",), {"seed": 1, "epochs": 2})
    >>> same = Job("short", ("digits",), {"epochs": 2, "seed": 1, "weight": 0.5})
    >>> one.identity == same.identity, one.folder(Path("runs")).name == f"digits-{one.identity[:12]}"
    (True, True)
    """

    name: str
    config: tuple[str, ...]
    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)
    start: Job | None = None
    takes: Literal["weights", "embeddings"] = "weights"

    def __post_init__(self) -> None:
        if not _SLUG.fullmatch(self.name):
            raise UserError(f"a run cannot be called {self.name!r}; write letters, digits and single dashes")

    def __getstate__(self) -> dict[str, Any]:
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}  # what is cached need not travel

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe, without `initialise`.

        Raises:
            ValueError: see `protoat.recipes.reading.read_recipe`.
        """
        return _resolved(self.config, json.dumps(self._own))

    @property
    def _own(self) -> dict[str, Any]:
        return {key: value for key, value in self.overrides.items() if key != "initialise"}

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the whole resolved recipe, how it takes over weights, and the identity of where it starts."""
        content = {**parse_yaml(self.recipe.text), "initialise": self.overrides.get("initialise")}
        first = None if self.start is None else self.start.identity
        return fingerprint(content, **{"start" if self.takes == "weights" else "encoder": first})

    @property
    def trust(self) -> list[str]:
        """Code that is not ours and that its recipe names, and that of the job it starts from."""
        return [*foreign_names(parse_yaml(self.recipe.text)), *([] if self.start is None else self.start.trust)]

    @property
    def pretrains(self) -> bool:
        """Whether it is ``protoat pretrain`` that does it."""
        return self.recipe.pretrains

    def folder(self, store: Path) -> Path:
        """Where in the store it is: a folder of this identity, whatever its name; else the one it will have.

        >>> Job("digits", ("digits",)).folder(Path("/nowhere")).parent
        PosixPath('/nowhere')
        """
        usual = store / f"{self.name}-{self.identity[:DIGITS]}"
        if (usual / "recipe.yaml").exists():
            return usual
        there = [path.parent for path in sorted(store.glob("*/recipe.yaml")) if not is_half_removed(path.parent)]
        with trusting(self.trust):
            return next((folder for folder in there if self._could_be(folder) and self._is(folder)), usual)

    def _is(self, folder: Path) -> bool:
        return fingerprint_of_folder(folder) == self.identity

    def _could_be(self, folder: Path) -> bool:
        """Whether our recipe says all that the folder's says, and so does that of the run it starts from.

        This is quick to see; and what only a recipe that lies in the store names is then never imported.
        """
        ours, theirs = settings(parse_yaml(self.recipe.text)), _settings_of(folder)
        taken = {key for key in theirs if key.startswith(("initialise.", "modes.init_args.encoder"))}
        if bool(taken) != (self.start is not None):
            return False
        if any(key not in ours or ours[key] != value for key, value in theirs.items() if key not in taken):
            return False
        if self.start is None or (folder / "job.json").exists():
            return True
        run = _at(files.read_recipe(folder), self._origin)
        return run is not None and self.start._could_be(Path(run))

    def started(self, store: Path) -> dict[str, Any]:
        """`overrides`, with the folder in the store that it starts from."""
        if self.start is None:
            return dict(self.overrides)
        place: Any = str(self.start.folder(store))
        for key in reversed(self._origin):
            place = {key: place}
        return overlay(self.overrides, place)

    @property
    def _origin(self) -> tuple[str, ...]:
        """Where a recipe names the run that it starts from."""
        return ("initialise", "run") if self.takes == "weights" else ("modes", "init_args", "encoder")

    @property
    def arguments(self) -> list[str]:
        """What ``protoat train`` or ``protoat pretrain`` would be given, without places.

        >>> Job("x", ("mnist", "trades"), {"epochs": 2, "schedule": None}).arguments
        ['--config', 'mnist', '--config', 'trades', '--epochs', '2', '--schedule', 'none']
        """
        return [*(word for config in self.config for word in ("--config", config)), *options(self.overrides)]

    def command(self, store: Path) -> str:
        """The shell command that does it by hand."""
        before = "" if self.start is None else f"{self.start.command(store)} && "
        option = "--initialise.run" if self.takes == "weights" else "--modes.encoder"
        start = [] if self.start is None else [option, str(self.start.folder(store))]
        words = ["protoat", "pretrain" if self.pretrains else "train", *self.arguments, *start]
        return before + shlex.join([*words, "--out", str(self.folder(store))])


@dataclass(frozen=True)
class Task:
    """What one row and column of a table needs: a run, measured.

    Args:
        job: the run.
        attacks: names as for ``protoat evaluate --attacks``; none for pre-training.
        images: test images that are measured, None for all.
        audit: whether it is also audited.
        checks: numbers of the checks that the audit makes, None for all.
    """

    job: Job
    attacks: tuple[str, ...] = ()
    images: int | None = None
    audit: bool = False
    checks: tuple[str, ...] | None = None

    def command(self, store: Path) -> str:
        """The shell command that does it by hand."""
        folder = str(self.job.folder(store))
        commands = [self.job.command(store)]
        if self.attacks:
            limit = [] if self.images is None else ["--n", str(self.images)]
            commands.append(shlex.join(["protoat", "evaluate", folder, "--attacks", *self.attacks, *limit]))
        if self.audit:
            limit = [] if self.images is None else ["--n", str(min(self.images, 1000))]
            only = [] if self.checks is None else ["--checks", *self.checks]
            commands.append(shlex.join(["protoat", "audit", folder, *limit, *only]))
        return " && ".join(commands)


def _at(recipe: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    """The value below nested keys; None where there is none."""
    value: Any = recipe
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


@lru_cache(maxsize=4096)
def _resolved(config: tuple[str, ...], overrides: str) -> Recipe:
    return read_recipe(config, json.loads(overrides))


@lru_cache(maxsize=4096)
def _settings_of_file(path: Path, _modified: int) -> Mapping[str, Any]:
    return settings(files.read_recipe(path.parent))


def _settings_of(folder: Path) -> Mapping[str, Any]:
    """Those of a folder's recipe; none where it is damaged."""
    path = folder / "recipe.yaml"
    try:
        return _settings_of_file(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}
