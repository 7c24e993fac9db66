"""Recipes from YAML and the command line.

Its YAML comes from outside, whether from a file, a run folder or a text, and passes `protoat.recipes.allow_list`
before anything it names is imported; the shipped ones pass it too, and none makes data be downloaded. Options are the
user's own word.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from functools import cache, lru_cache, partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, Namespace

from protoat.errors import UserError
from protoat.recipes.allow_list import check_names, foreign_names, without_downloads
from protoat.recipes.choices import CLASSES, WORDS, choices_of, in_full, with_packages
from protoat.recipes.fingerprint import completed, flat
from protoat.recipes.initialise import Initialise, digest, weights_of_run
from protoat.recipes.overrides import spelled_out
from protoat.recipes.own_code import named_in, trusted, trusting
from protoat.recipes.parser import Parser
from protoat.recipes.recipe import KEYS, Recipe, check_comes_back
from protoat.recipes.shipped import is_of_pretraining, is_overlay, overlay_names, recipe_names, recipe_path
from protoat.spelling import setting
from protoat.storage.files import read_bytes
from protoat.storage.parsing import decoded, parse_yaml

_LONGEST = 2**18  # bytes of a recipe
# Classes whose arguments make no sense for another one.
_STARTS_ANEW = ("head", "method", "regularizer", "modes", "weighting", "optimizer", "schedule")
_LIBRARIES = {"--model": {"timm": ("TimmModel", "--model.name"), "torchvision": ("TorchvisionModel", "--model.name")}}


def read_recipe(
    config: str | Path | Sequence[str | Path],
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    trust: Collection[str] = (),
) -> Recipe:
    """A recipe by name or path, with changes.

    Args:
        config: name of a shipped recipe (`recipe_names`), or path of a YAML file; several are laid over one another.
        overrides: plain values as a recipe file has them, such as ``{"method": {"class_path": "FreeAT"}}``, or options
            as on the command line, such as ``["--method", "FreeAT", "--method.replays", "4"]``. They may name code of
            your own.
        trust: code of your own that the file may name, such as ``["mymodels.Net"]``.

    Raises:
        ValueError: an unknown recipe, class, key or value, with the nearest valid name; or a file that names code
            which is neither protoat's nor trusted.

    >>> read_recipe("digits-2", ["--threat.eps", "26/255", "--regularizer", "none"]).threat.eps == 26 / 255
    True
    >>> read_recipe("digits", {"threat": {"eps": "26/255"}, "regularizer": None}).regularizer is None
    True
    >>> read_recipe("cifar-2")
    Traceback (most recent call last):
    protoat.errors.UserError: recipe 'cifar-2' is unknown; did you mean 'cifar10-2'?
    """
    configs = tuple(str(each) for each in ([config] if isinstance(config, str | Path) else config))
    parser, changes = shared_parser(), in_full(overrides or {})
    if not isinstance(changes, Mapping):
        with trusting(trust):
            return resolve(parser, [*_options(configs), *changes])[0]
    with trusting(trust), trusting(foreign_names(changes)):
        texts = tuple(_text_of(recipe_path(each).resolve()) for each in configs)
        parsed = _remembered(_of_files, configs, texts)
        if changes:
            _start_anew(parsed, _classes_in(changes))
            parsed = parser.parse_object(dict(changes), namespace=parsed)
        return _begun(parser, parsed)


def recipe_from_text(text: str, *, trust: Collection[str] = (), source: Path | str = "") -> Recipe:
    """The recipe whose `Recipe.text` this is.

    Args:
        text: YAML, from wherever it came; it names no code but protoat's and what is trusted.
        trust: code of your own that it may name, such as ``["mymodels.Net"]``.
        source: the file that it stood in, for messages.

    Raises:
        ValueError: see `read_recipe`.
    """
    with trusting(trust):
        return _objects(shared_parser(), _remembered(shared_parser().parse_string, text, source))


def recipe_parser(prog: str | None = None, *, pretrains: bool = False, default: str | None = None) -> Parser:
    """A parser for all fields of `Recipe`, and for ``--config`` with the name or path of a recipe.

    Hints name the recipes and methods of pre-training, or all others, and `default`, which a command begins with. An
    option that names another class than the recipe does starts from the defaults of that class, except for what all
    classes of the kind take: `ramp_epochs` of methods.
    """
    parser = _RecipeParser(prog, choices=partial(choices_of, pretrains=pretrains))
    recipes = [name for name in recipe_names() if is_of_pretraining(name) == pretrains]
    usual = "" if default is None else f", by default {default},"
    parser.add_argument(
        "--config",
        action=_NameOrPath,
        help=f"recipe of a data set{usual} ({', '.join(recipes)}) or the path of a YAML file; a further --config lays "
        f"the published values of a method or regularizer over it ({', '.join(overlay_names())})",
    )
    parser.add_class_arguments(
        Recipe,
        skip={
            f"{key}.init_args.{name}" for key in ("head", "regularizer") for name in ("num_classes", "embedding_dim")
        },
    )
    parser.add_trust()
    return parser


@cache
def shared_parser() -> Parser:
    """A `recipe_parser` for all who add no options to it; to build one is a fourth of the work of reading a recipe."""
    return recipe_parser()


class _RecipeParser(Parser):
    """Knows names by itself, since jsonargparse builds one without arguments to explain a class."""

    none_is_a_choice = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"choices": partial(choices_of, pretrains=False), **options})

    def parse_path(self, path: Any, *args: Any, **options: Any) -> Namespace:
        return self.parse_string(_text_of(Path(path).resolve()), path, *args, **options)

    def parse_string(self, content: str, path: Any = "", *args: Any, **options: Any) -> Namespace:
        source = path or "the recipe"
        plain = _plain(content, source)
        full = in_full(plain)
        check_names(full, str(source), keys=KEYS)
        if (kept := completed(without_downloads(full))) != plain:
            content = yaml.safe_dump(kept, sort_keys=False)
        return super().parse_string(content, path, *args, **options)


def resolve(parser: Parser, args: Sequence[str]) -> tuple[Recipe, Namespace]:
    """The recipe that `args` ask of a `recipe_parser`, and all that was parsed, further options included."""
    args = spelled_out(args, _LIBRARIES)
    for place, (before, arg) in enumerate(pairwise(["", *args])):
        if re.fullmatch(r"--model=[\w.]+:\w+", f"{before}={arg}" if before == "--model" else arg):
            args[place] = arg.replace(":", ".")  # protoat evaluate spells it with a colon
    args = [_in_full(before, arg) for before, arg in pairwise(["", *args])]
    words = [word for arg in args for word in (arg.split("=", 1) if arg.startswith("--") else [arg])]
    parser.named_classes = {option[2:]: value for option, value in pairwise(words) if option[2:] in _STARTS_ANEW}
    with trusting(named_in(args)):
        parsed = parser.parse_args(args)
        return _begun(parser, parsed), parsed


def _in_full(before: str, arg: str) -> str:
    """A word of a command line; one that stands for a class is its name: ``--modes known``, ``--modes=known``."""
    option, equals, word = arg.partition("=") if arg.startswith("--") else (before, "", arg)
    name = WORDS.get(option.removeprefix("--"), {}).get(word)
    return arg if name is None else f"{option}={name}" if equals else name


def _remembered(parse: Callable[..., Namespace], *sources: Any) -> Namespace:
    """Parses each text once, as all runs of a table share theirs; where code of the user is trusted, every time."""
    return parse(*sources) if trusted() else _kept(parse, *sources).clone()


_kept = lru_cache(maxsize=64)(lambda parse, *sources: parse(*sources))


def _of_files(configs: tuple[str, ...], _texts: tuple[str, ...]) -> Namespace:
    shared_parser().named_classes = {}
    return shared_parser().parse_args(_options(configs))


def _options(configs: Sequence[str]) -> list[str]:
    return [word for each in configs for word in ("--config", each)]


def _begun(parser: Parser, parsed: Namespace) -> Recipe:
    """The recipe of a run that begins now, with the SHA-256 of the files that it takes weights from."""
    if parsed.initialise is not None:
        choice = Initialise(**vars(parsed.initialise))
        parsed.initialise.sha256 = _digest(choice.file, choice.sha256)
    modes = Namespace() if parsed.modes is None else parsed.modes.get("init_args", Namespace())
    if modes.get("encoder") is not None:
        encoder = weights_of_run(Path(str(modes.encoder)), "modes.encoder")
        modes.encoder_sha256 = _digest(encoder, modes.encoder_sha256)
    recipe = _objects(parser, parsed)
    if recipe.trust:
        check_comes_back(recipe, lambda: recipe_from_text(recipe.text, trust=recipe.trust))
    return recipe


def _digest(file: Path, expected: str | None) -> str:
    """SHA-256 of a file.

    Raises:
        ValueError: another one is expected.
    """
    found = digest(file)
    if expected not in (None, found):
        raise UserError(f"{file} has changed: its SHA-256 is {found}, and {expected} is asked for")
    return found


def _objects(parser: Parser, parsed: Namespace) -> Recipe:
    if parsed.augment is None:
        parsed.augment = Namespace(asdict(_import(parsed.data.class_path).augment))
    # What is parsed is valid. The parser knows a class by the shortest name there is.
    content = with_packages(parse_yaml(parser.dump(parsed, skip_unset=False, skip_validation=True)))
    for key, value in flat(content):
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                kind = "a number" if math.isnan(number) else "finite"
                raise UserError(f"{setting({key.replace('init_args.', ''): number})} is not {kind}")
    objects = parser.instantiate(parsed)
    recipe = Recipe(**{name: getattr(objects, name) for name in KEYS})
    recipe.text = yaml.safe_dump({name: content[name] for name in KEYS}, sort_keys=False, width=120)
    recipe.trust = tuple(sorted({*trusted(), *foreign_names({name: content[name] for name in KEYS})}))
    return recipe


def _text_of(path: Path) -> str:
    try:
        return decoded(read_bytes(path, limit=_LONGEST))
    except FileNotFoundError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _plain(text: str, source: Path | str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{source} is no YAML: {error}") from error


class _NameOrPath(ActionConfigFile):
    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        path = recipe_path(values)
        if is_overlay(path) and not cfg.get("data"):
            raise UserError(f"recipe {values!r} changes that of a data set; write --config cifar10 --config {values}")
        _start_anew(cfg, _classes_of(path))
        super().__call__(parser, cfg, str(path), option_string)
        _start_anew(cfg, parser.named_classes)


def _start_anew(cfg: Any, named: Mapping[str, str]) -> None:
    """Forgets the arguments of each class that is another one than is `named` now, but for those of all of its kind."""
    for key, name in named.items():
        # jsonargparse would keep arguments that both classes have: PGD's step_size is not what FastAT wants.
        if cfg.get(key) and cfg[key].class_path.rpartition(".")[2] != name.rpartition(".")[2]:
            common = inspect.signature(CLASSES[key][0]).parameters
            given = cfg[key].get("init_args", Namespace())
            cfg[key].init_args = Namespace({name: value for name, value in given.items() if name in common})


def _classes_of(path: Path) -> dict[str, str]:
    """Class names in a recipe file, by key."""
    content = _plain(_text_of(path.resolve()), path)
    return _classes_in(content) if isinstance(content, Mapping) else {}


def _classes_in(content: Mapping[str, Any]) -> dict[str, str]:
    """Names of the classes whose arguments make no sense for another one, by key."""
    given = {key: content.get(key) for key in _STARTS_ANEW}
    named = {key: entry.get("class_path") if isinstance(entry, Mapping) else entry for key, entry in given.items()}
    return {key: name for key, name in named.items() if isinstance(name, str)}


def _import(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    return getattr(import_module(module), name)
