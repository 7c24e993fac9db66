"""Whatever stands in a recipe, at whatever place: no name is looked up that is not on the allow-list."""

from __future__ import annotations

import builtins
import dataclasses
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protoat.pixels import Pixels
from protoat.recipes import reading as recipes
from protoat.recipes.allow_list import allowed_names
from protoat.recipes.choices import choices_of
from protoat.recipes.own_code import CLASS_KEYS
from protoat.recipes.reading import read_recipe, recipe_from_text
from protoat.recipes.recipe import KEYS, Recipe

OURS = frozenset(name for key in CLASS_KEYS for name in allowed_names(key) if "." in name)
# Types of a recipe whose values are keys and values, which the parser itself looks up.
GROUPS = {
    "protoat.data.Augment",
    "protoat.data.RandomView",
    "protoat.threats.ThreatModel",
    "protoat.Augment",
    "protoat.RandomView",
    "protoat.ThreatModel",
    "protoat.recipes.initialise.Initialise",
}
STRANGE = (
    "os.system",
    "torch.load",
    "torch.nn.Linear",
    "subprocess.run",
    "planted.Net",
    "planted.inner.Net",
    "antigravity.geohash",
    "accelerate.test_utils.testing.run_command",
    "protoat.cli.main",
    "protoat.runs.cleanup.remove",
    "protoat.runs.train.train",
    "protoat.data.folder.os.system",
    "Linear",
    "Parameter",
)


@contextmanager
def watched() -> Iterator[list[str]]:
    """Lists every name that a parser looks up, and every module that is looked for and is not there yet."""
    found: list[str] = []
    plain = builtins.__import__

    def recording(name: str, *args: Any, **options: Any) -> Any:
        if sys._getframe(1).f_code.co_name == "import_object":
            fromlist = args[2] if len(args) > 2 else options["fromlist"]
            found.append(f"{name}.{fromlist[0]}")
        return plain(name, *args, **options)

    class Finder:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name.partition(".")[0] in {strange.partition(".")[0] for strange in STRANGE} - {"protoat", "torch"}:
                found.append(name)

    finder = Finder()
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
    builtins.__import__ = recording
    try:
        yield found
    finally:
        builtins.__import__ = plain
        sys.meta_path.remove(finder)  # type: ignore[arg-type]


def spelled(name: str) -> st.SearchStrategy[Any]:
    """The ways to write a name where a class or function may stand."""
    spec, hidden = {"class_path": name}, name.replace(".", "\\x2e")
    as_text = [name, repr(name), f'"{hidden}"', f"{{class_path: {name}}}", f"class_path: {name}", f"--model={name}"]
    inside = [spec | {"init_args": {"command": "x"}}, {"init_args": {"x": name}}, {"x": spec}, {"__path__": name}]
    return st.sampled_from([*as_text, *inside, spec, [name], {"help": name}])


strange = st.sampled_from(STRANGE).flatmap(spelled)
plain_texts = st.sampled_from(["8/255", "none", "1e-3", "x"])
plain_values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), plain_texts)


def of_type(hint: Any, key: str, depth: int = 0) -> st.SearchStrategy[Any]:
    """Values of a type, and strange ones in their place."""
    right = class_of(key, depth) if key in CLASS_KEYS else right_values(hint, key, depth)
    return st.one_of(right, right, right, strange, plain_values)


def right_values(hint: Any, key: str, depth: int) -> st.SearchStrategy[Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    kind = getattr(origin, "__name__", "")
    found: st.SearchStrategy[Any] = strange  # a class or function of which a recipe has no choice
    if origin in (typing.Union, types.UnionType):
        found = st.one_of(*(right_values(arg, key, depth) for arg in args))
    elif origin is Literal:
        found = st.sampled_from(args)
    elif hint in (bool, int, float, str, type(None)):
        found = st.from_type(hint)
    elif hint in (Pixels, Path):
        found = st.sampled_from(["8/255", 0.1, "somewhere"])
    elif dataclasses.is_dataclass(hint) and depth < 3:
        inner = typing.get_type_hints(hint)
        found = some_of(
            {each.name: of_type(inner[each.name], each.name, depth + 1) for each in dataclasses.fields(hint)}
        )
    elif kind in ("Sequence", "list", "tuple"):
        found = st.lists(of_type(args[0], "", depth + 1), max_size=2)
    elif kind in ("Mapping", "dict"):
        found = st.dictionaries(st.text(max_size=4), of_type(args[1], "", depth + 1), max_size=2)
    return found


def some_of(inner: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=dict(inner))


def class_of(key: str, depth: int) -> st.SearchStrategy[Any]:
    """A choice of ours with arguments of its types, or by its name alone."""
    if key == "loss":
        return st.sampled_from(sorted(allowed_names("loss")))
    found = {name: item for name, item in {**choices_of(key), **choices_of(key, pretrains=True)}.items() if item}

    def spec(name: str) -> st.SearchStrategy[Any]:
        hints = typing.get_type_hints(found[name].__init__) if depth < 2 else {}
        inner = some_of({arg: of_type(hint, arg, depth + 1) for arg, hint in hints.items() if arg != "return"})
        paths = st.sampled_from([name, f"{found[name].__module__}.{name}"])
        return st.one_of(paths, st.fixed_dictionaries({"class_path": paths}, optional={"init_args": inner}))

    return st.sampled_from(sorted(found)).flatmap(spec)


HINTS = typing.get_type_hints(Recipe)
WHOLE = yaml.safe_load(read_recipe("digits-2").text)
changes = st.lists(
    st.sampled_from(KEYS).flatmap(lambda key: st.tuples(st.just(key), of_type(HINTS[key], key))), min_size=1, max_size=3
).map(dict)
KEYS_OF_OPTIONS = ("method.loss", "method.init_args.loss", "model.class_path", "optimizer.lr", "data.root+", "config")
dotted_keys = st.tuples(st.sampled_from(KEYS_OF_OPTIONS), strange).map(lambda pair: dict([pair]))


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(st.one_of(changes, changes, dotted_keys))
def test_no_name_is_looked_up_that_is_not_on_the_list(changed: dict[str, Any]) -> None:
    text = yaml.safe_dump(WHOLE | changed)
    with watched() as found:
        try:
            recipe_from_text(text)
        except (ValueError, TypeError) as error:  # a TypeError comes from a constructor of ours, of arguments it lacks
            assert "\n" not in str(error)
    assert set(found) <= OURS | GROUPS


def test_the_watch_sees_what_a_parser_looks_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "check_names", lambda *args, **options: None)
    for name in ("protoat.cli.main", "planted.Net"):
        with watched() as found, suppress(ValueError):
            recipe_from_text(yaml.safe_dump(WHOLE | {"method": {"class_path": "PGDAT", "init_args": {"loss": name}}}))
        assert name in found
