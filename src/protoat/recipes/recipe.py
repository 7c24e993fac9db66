"""A recipe: every choice of a run, from YAML and the command line to typed objects.

Its YAML comes from outside, whether from a file, a run folder or a text, and passes `protoat.recipes.allow_list`
before anything it names is imported; the shipped ones pass it too, and none makes data be downloaded. Options are the
user's own word.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache, partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import ActionConfigFile, Namespace
from torch import nn

from protoat.arguments import check_number, check_seed, check_whole
from protoat.data import Augment, Groups, Source
from protoat.methods import Method
from protoat.pretraining import Contrastive
from protoat.recipes.allow_list import check_names, foreign_names, without_downloads
from protoat.recipes.choices import CLASSES, choices_of, class_names
from protoat.recipes.initialise import Initialise, digest
from protoat.recipes.own_code import named_in, trusted, trusting
from protoat.recipes.parser import Parser, nearest
from protoat.records.files import recipe_text
from protoat.regularizers import Regularizer
from protoat.storage.files import read_bytes
from protoat.storage.parsing import decoded, parse_yaml
from protoat.training import EMA, Averaging, Schedule
from protoat.types import ThreatModel

__all__ = [
    "KEYS",
    "Recipe",
    "differing_keys",
    "flat_recipe",
    "is_of_pretraining",
    "load_yaml",
    "overlay_names",
    "read_recipe",
    "recipe_from_text",
    "recipe_names",
    "recipe_of_run",
    "recipe_parser",
    "resolve",
    "shared_parser",
]

_SHIPPED = Path(__file__).parent
_OVERLAYS = _SHIPPED / "methods"
_LONGEST = 2**18  # bytes of a recipe
# Classes whose arguments make no sense for another one.
_STARTS_ANEW = ("method", "regularizer", "optimizer", "schedule")
# What may differ between two starts of one run: where files are (weights are known by their SHA-256), and how often it
# is saved.
_NO_PART_OF_A_RUN = (
    "checkpoint_every",
    "initialise.run",
    "initialise.weights",
    *(f"{source}.init_args.{key}" for source in ("data", "auxiliary") for key in ("root", "download")),
)
_PROTOTYPES = "regularizer.init_args.prototypes_per_class"


@dataclass
class Recipe:
    """Every choice that could change the number a run ends with.

    Where a field is a class with some of its arguments (method, model, regularizer, optimizer), the run supplies the
    others: threat model, number of classes, image shape, embedding size, parameters.

    Args:
        data: a data source, such as MNIST; `data.root` says where to look for its files.
        model: a network class taking (num_classes, in_channels, image_size).
        threat: what the adversary may do: `threat.eps` in pixels of [0, 1], written 0.3 or 8/255, and `threat.norm`.
        method: how adversarial examples enter training, such as PGDAT, FreeAT or FastAT; ACL or RoCL to pre-train.
        optimizer: any torch optimizer class; its lr and weight_decay are those of the network.
        epochs: passes over the data.
        batch_size: images for each step, of all processes together.
        groups: join classes into this many blocks, or superclasses, or {new name: [class names]}; none keeps them.
        augment: padding and flip of training images; none takes the data source's own.
        validation_size: training images held out to choose the best checkpoint; 0 holds out none.
        validate_every: epochs between validations.
        regularizer: metric term such as SoftTriple, or none. Without it `weight` and `norm_weight` have no effect.
        weight: of the metric term, the paper's lambda_1.
        norm_weight: of the norm term, the paper's lambda_2.
        norm: what the norm term weighs, embedding or weights.
        dml_input: the embeddings the metric term sees, adv, clean or both.
        prototype_lr_factor: learning rate of prototypes as a multiple of the network's.
        initialise: weights to start from, `initialise.run` or `initialise.weights`; none draws them from `seed`.
        schedule: learning rate over the run, such as StepDecay or Cyclic; none keeps it constant.
        averaging: decay of an exponential moving average of the weights, or a rule: EMA, SWA, FAWA; none is off.
        clip_norm: largest L2 norm of the gradient of a step; none clips nothing.
        evaluation_threat: threat model of `protoat evaluate`; none takes `threat`.
        seed: of everything random.
        precision: fp32, or mixed precision with fp16 or bf16.
        compile: run the model through torch.compile.
        memory_format: layout of images in memory; none takes what is fastest, and safe, on the present device.
        checkpoint_every: also save inside an epoch, each time this many updates have passed.

    Raises:
        ValueError: a number out of range.

    Attributes:
        text: the whole recipe as YAML, defaults included: what a run folder keeps, and what makes two runs the same.
        trust: the user's own code that `text` names, and what they have named beside, by dotted names.
    """

    data: Source
    model: Callable[[int, int, int], nn.Module]
    threat: ThreatModel
    method: Callable[[ThreatModel], Method]
    optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer]
    epochs: int
    batch_size: int = 128
    groups: Groups | None = None
    augment: Augment | None = None
    validation_size: int = 0
    validate_every: int = 1
    regularizer: Callable[[int, int], Regularizer] | None = None
    weight: float = 0.5
    norm_weight: float = 0.0
    norm: Literal["embedding", "weights"] = "embedding"
    dml_input: Literal["adv", "clean", "both"] = "adv"
    prototype_lr_factor: float = 1.0
    initialise: Initialise | None = None
    schedule: Schedule | None = None
    averaging: float | Averaging | None = None
    clip_norm: float | None = None
    evaluation_threat: ThreatModel | None = None
    seed: int = 0
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    compile: bool = False
    memory_format: Literal["contiguous", "channels_last"] | None = None
    checkpoint_every: int | None = None
    text: str = field(default="", init=False, repr=False)
    trust: tuple[str, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        check_whole(epochs=self.epochs)
        check_whole(batch_size=self.batch_size)
        check_whole(validate_every=self.validate_every)
        check_seed(seed=self.seed)
        check_whole(0, "0 holds out no images", validation_size=self.validation_size)
        if self.clip_norm is not None:
            check_number("(0, inf)", "none clips nothing", clip_norm=self.clip_norm)
        if self.checkpoint_every is not None:
            check_whole(1, "none saves after epochs only", checkpoint_every=self.checkpoint_every)
        if isinstance(self.averaging, float):
            self.averaging = EMA(decay=self.averaging)

    @property
    def pretrains(self) -> bool:
        """Whether the method is one of `protoat.pretraining`, which need no labels."""
        return isinstance(self.method(self.threat), Contrastive)


KEYS = tuple(entry.name for entry in fields(Recipe) if entry.init)


def read_recipe(config: str | Path, overrides: Sequence[str] = (), *, trust: Collection[str] = ()) -> Recipe:
    """A recipe by name or path, with changes.

    Args:
        config: name of a shipped recipe (`recipe_names`), or path of a YAML file.
        overrides: as on the command line, such as ``["--method", "FreeAT", "--method.replays", "4"]``. They may name
            code of your own.
        trust: code of your own that the file may name, such as ``["mymodels.Net"]``.

    Raises:
        ValueError: an unknown recipe, class, key or value, with the nearest valid name; or a file that names code
            which is neither protoat's nor trusted.

    >>> read_recipe("digits-2", ["--threat.eps", "26/255", "--regularizer", "none"]).threat.eps == 26 / 255
    True
    >>> read_recipe("cifar-2")
    Traceback (most recent call last):
    ValueError: recipe 'cifar-2' is unknown; did you mean 'cifar10-2'?
    """
    with trusting(trust):
        return resolve(shared_parser(), ["--config", str(config), *overrides])[0]


def recipe_from_text(text: str, *, trust: Collection[str] = ()) -> Recipe:
    """The recipe whose `Recipe.text` this is.

    Args:
        text: YAML, from wherever it came.
        trust: code of your own that it may name, such as ``["mymodels.Net"]``.

    Raises:
        ValueError: see `read_recipe`.
    """
    with trusting(trust):
        parser = shared_parser()
        return _objects(parser, parser.parse_string(text))


def recipe_of_run(folder: Path, *, trust: Collection[str] = ()) -> Recipe:
    """The recipe of a run folder, which may be a stranger's: it names no code but protoat's and what is trusted.

    Raises:
        ValueError: see `read_recipe`; or the file is damaged.
    """
    with trusting(trust):
        parser = shared_parser()
        return _objects(parser, parser.parse_string(recipe_text(folder), folder / "recipe.yaml"))


def recipe_names() -> list[str]:
    """Names of the shipped recipes.

    >>> "cifar10-2" in recipe_names()
    True
    """
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def overlay_names() -> list[str]:
    """Names of the recipes of methods and regularizers, which are laid over the recipe of a data set.

    >>> "trades" in overlay_names()
    True
    """
    return sorted(path.stem for path in _OVERLAYS.glob("*.yaml"))


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
        Recipe, skip={f"regularizer.init_args.{name}" for name in ("num_classes", "embedding_dim")}
    )
    parser.add_trust()
    return parser


@cache
def is_of_pretraining(name: str) -> bool:
    """Whether a shipped recipe is for ``protoat pretrain``; told without building it.

    >>> is_of_pretraining("mnist-acl"), is_of_pretraining("mnist-finetune")
    (True, False)
    """
    method = load_yaml((_SHIPPED / f"{name}.yaml").read_text())["method"]["class_path"]
    return method in class_names("method", pretrains=True)


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
        check_names(plain, str(source), keys=KEYS)
        if (kept := without_downloads(plain)) != plain:
            content = yaml.safe_dump(kept, sort_keys=False)
        return super().parse_string(content, path, *args, **options)


def resolve(parser: Parser, args: Sequence[str]) -> tuple[Recipe, Namespace]:
    """The recipe that `args` ask of a `recipe_parser`, and all that was parsed, further options included."""
    args = list(args)
    for place, (before, arg) in enumerate(pairwise(["", *args])):
        if re.fullmatch(r"--model=[\w.]+:\w+", f"{before}={arg}" if before == "--model" else arg):
            args[place] = arg.replace(":", ".")  # protoat evaluate spells it with a colon
    words = [word for arg in args for word in (arg.split("=", 1) if arg.startswith("--") else [arg])]
    parser.named_classes = {option[2:]: value for option, value in pairwise(words) if option[2:] in _STARTS_ANEW}
    with trusting(named_in(args)):
        parsed = parser.parse_args(args)
        if parsed.initialise is not None:
            choice = Initialise(**vars(parsed.initialise))
            found = digest(choice.file)
            if choice.sha256 not in (None, found):
                raise ValueError(f"{choice.file} has changed: its SHA-256 is {found}, and {choice.sha256} is asked for")
            parsed.initialise.sha256 = found
        return _objects(parser, parsed), parsed


def _objects(parser: Parser, parsed: Namespace) -> Recipe:
    if parsed.augment is None:
        parsed.augment = Namespace(asdict(_import(parsed.data.class_path).augment))
    content = load_yaml(parser.dump(parsed, skip_unset=False, skip_validation=True))  # what is parsed is valid
    for key, value in _flat(content):
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                kind = "a number" if math.isnan(number) else "finite"
                raise ValueError(f"{key.replace('init_args.', '')}={number} is not {kind}")
    objects = parser.instantiate(parsed)
    recipe = Recipe(**{name: getattr(objects, name) for name in KEYS})
    recipe.text = yaml.safe_dump({name: content[name] for name in KEYS}, sort_keys=False, width=120)
    recipe.trust = tuple(sorted({*trusted(), *foreign_names({name: content[name] for name in KEYS})}))
    return recipe


def differing_keys(ours: str, theirs: str) -> list[str]:
    """Keys in which two recipe texts differ, with both values; what is no part of a run's identity is left out.

    >>> differing_keys("threat: {eps: 8/255}", "threat: {eps: 4/255}")
    ['threat.eps 8/255, there 4/255']
    """
    here, there = flat_recipe(ours), flat_recipe(theirs)
    return [
        f"{key.replace('init_args.', '')} {here.get(key, 'absent')}, there {there.get(key, 'absent')}"
        for key in {**here, **there}
        if here.get(key) != there.get(key)  # an older recipe lacks keys whose default is none
    ]


def flat_recipe(text: str) -> dict[str, Any]:
    """Keys and values of a recipe text on one level, without what is no part of a run's identity.

    Prototypes of each class are one number where all classes have as many, which is the same training.

    >>> flat_recipe("{seed: 0, threat: {eps: 8/255}, checkpoint_every: 10}")
    {'seed': 0, 'threat.eps': '8/255'}
    """
    values = {key: value for key, value in _flat(load_yaml(text)) if not key.endswith(_NO_PART_OF_A_RUN)}
    counts = values.get(_PROTOTYPES)
    if isinstance(counts, list) and counts and counts == counts[:1] * len(counts):
        values[_PROTOTYPES] = counts[0]
    return values


def load_yaml(text: str) -> Any:
    """What YAML holds, plain values only.

    Raises:
        ValueError: see `protoat.storage.parsing.parse_yaml`.

    >>> load_yaml("seed: 0")
    {'seed': 0}
    """
    return parse_yaml(text)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for key, entry in value.items():
        yield from _flat(entry, f"{prefix}.{key}" if prefix else str(key))


def _text_of(path: Path) -> str:
    try:
        return decoded(read_bytes(path, limit=_LONGEST))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _plain(text: str, source: Path | str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{source} is no YAML: {error}") from error


class _NameOrPath(ActionConfigFile):
    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        path = _path_of(values)
        if path.parent == _OVERLAYS and not cfg.get("data"):
            raise ValueError(f"recipe {values!r} changes that of a data set; write --config cifar10 --config {values}")
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
    given = {key: content.get(key) for key in _STARTS_ANEW} if isinstance(content, Mapping) else {}
    return {key: str(entry.get("class_path")) for key, entry in given.items() if isinstance(entry, Mapping)}


def _path_of(config: str) -> Path:
    path = Path(config)
    for folder, names in ((_SHIPPED, recipe_names()), (_OVERLAYS, overlay_names())):
        if config in names:
            return folder / f"{config}.yaml"
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise ValueError(f"there is no recipe file {config}; names of shipped recipes: {', '.join(recipe_names())}")
    raise ValueError(f"recipe {config!r} is unknown; {nearest(config, [*recipe_names(), *overlay_names()])}")


def _import(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    return getattr(import_module(module), name)
