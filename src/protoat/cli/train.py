"""``protoat train``."""

from __future__ import annotations

import logging
from dataclasses import asdict
from functools import cache
from itertools import pairwise
from pathlib import Path

from jsonargparse import Namespace

from protoat.cli.advice import advise, options_in, options_of_recipe
from protoat.cli.log_with import add_log_with, check_log_with
from protoat.cli.printing import print_table
from protoat.cli.say import keep, say
from protoat.data.cache import USUAL_SIDE
from protoat.data.own_images import OwnImages
from protoat.errors import UserError
from protoat.recipes.initialise import digest
from protoat.recipes.own_code import trusting
from protoat.recipes.parser import Parser
from protoat.recipes.reading import recipe_parser, resolve
from protoat.recipes.recipe import Recipe
from protoat.runs.claims import find_run, is_elsewhere
from protoat.runs.fingerprint import DIGITS, fingerprint_of_recipe
from protoat.runs.images import check_images, fitting_validation_size, mixed_sizes
from protoat.runs.plan import Plan, plan
from protoat.runs.run import Run
from protoat.runs.store import check_free
from protoat.runs.train import train
from protoat.storage.parsing import parse_yaml
from protoat.storage.path_checks import check_no_file
from protoat.training.weights import restore

logger = logging.getLogger(__name__)


def main(args: list[str]) -> None:
    """Trains a recipe with changes from the command line.

    Without one it is ``digits-2``; or where other data is named ``digits``, which joins no classes, and then holds out
    at most a fifth of the images and brings pictures of mixed size to 32 pixels a side.
    """
    started = start("protoat train", args, "digits" if _names("--data", args) else "digits-2")
    if started is None:
        return
    recipe, out = started
    best = Run(out).best
    if best:
        held_out = best.held_out
        say(f"best epoch {best.epoch} of {recipe.epochs}, on {held_out.images} held-out images: {held_out}")
    trust = "".join(f" --trust {name}" for name in recipe.trust)
    say(f"files are in {out}; next: protoat evaluate {out}{trust}")


def start(command: str, args: list[str], default: str, *, pretrains: bool = False) -> tuple[Recipe, Path] | None:
    """Trains what `args` ask for, unless it is complete; returns its recipe and folder, or None after a dry run.

    Args:
        command: as the user types it.
        default: recipe when `args` name none.
        pretrains: whether the method must be one of `protoat.pretraining`, or must not.

    Raises:
        ValueError: what `args` ask for does not fit, or its folder was filled with another recipe or other images.
    """
    parser = _parser(command, pretrains=pretrains, default=default)
    names_recipe = _names("--config", args)
    if not names_recipe:
        args = ["--config", default, *args]
    args = [_found(option, word) for option, word in pairwise(["", *args])]
    advise(lambda: options_in(args))
    recipe, options = resolve(parser, args)
    advise(lambda: options_of_recipe(parse_yaml(recipe.text)))
    if not names_recipe and _names("--data", args):
        recipe, options = _for_own_data(parser, args, recipe, options)
    if recipe.pretrains != pretrains:
        name = type(recipe.method(recipe.threat)).__name__
        hint = "needs labels; write --method ACL or RoCL, or protoat train" if pretrains else "is for protoat pretrain"
        raise UserError(f"--method {name} {hint}")
    out = options.out or _usual_folder(recipe, [Path(str(path)).stem for path in options.config])
    check_no_file(out, "--out")
    check_log_with(options.log_with)
    check_free(out, recipe.text)
    before = Run(out) if (out / "recipe.yaml").exists() else None
    if before is not None:
        before.check()
    if before is not None and before.complete:
        check_images(recipe, out)
        for path in sorted(out.glob("*.safetensors")):
            restore(path)
        say(f"{out} is complete already")
    elif options.dry_run:
        _print_plan(out, plan(recipe), done=0 if before is None else len(before.metrics))
        return None
    else:
        if before is not None:
            before.warn_of_damage()
        shown = None if logger.isEnabledFor(logging.INFO) else False
        result = train(recipe, out, progress=shown, loggers=options.log_with)
        if result.stopped:
            say(f"stopped early: {result.stopped}")
    return recipe, out


def _for_own_data(parser: Parser, args: list[str], recipe: Recipe, options: Namespace) -> tuple[Recipe, Namespace]:
    """The same with what the images need, where no recipe says it; each choice is said."""
    if found := mixed_sizes(recipe):
        logger.info("pictures of mixed size (%s) are brought to %d; --data.image_size says another", found, USUAL_SIDE)
        args = [*args, "--data.image_size", str(USUAL_SIDE)]
        recipe, options = resolve(parser, args)
    if isinstance(recipe.data, OwnImages) and not _names("--threat.eps", args):
        logger.info("the radius is %s; --threat.eps says another: 8/255 is usual for photographs", recipe.threat)
    if not _names("--validation_size", args) and (size := fitting_validation_size(recipe)) != recipe.validation_size:
        logger.info("%d of the training images are held out; --validation_size says how many", size)
        recipe, options = resolve(parser, [*args, "--validation_size", str(size)])
    return recipe, options


def _found(option: str, word: str) -> str:
    """A word of the command; a run is its folder, and that of the zoo or the Hub after ``--config`` its recipe."""
    if option in ("--initialise.run", "--modes.encoder"):
        return str(find_run(word))
    return str(find_run(word) / "recipe.yaml") if option == "--config" and is_elsewhere(word) else word


def _names(option: str, args: list[str]) -> bool:
    return any(arg == option or arg.startswith(f"{option}=") for arg in args)


@cache  # a program may train many runs, and to build one takes a third of the time of reading a recipe
def _parser(command: str, *, pretrains: bool, default: str) -> Parser:
    parser = recipe_parser(command, pretrains=pretrains, default=default)
    parser.add_argument(
        "--out", type=Path | None, help="run folder; default runs/<recipe>-<digest>, the same for the same run"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="train a few batches, write nothing, and print the plan and its time"
    )
    add_log_with(
        parser, "settings, every number of each epoch and the records", usual="tensorboard, if it is installed"
    )
    return parser


def _usual_folder(recipe: Recipe, names: list[str]) -> Path:
    """The same for the same run; weights that are not a run's own are known by their digest."""
    with trusting(recipe.trust):
        content = parse_yaml(recipe.text)
        identity = fingerprint_of_recipe(content)
        if identity is None and recipe.initialise is not None:
            identity = fingerprint_of_recipe(content, digest(recipe.initialise.file))
    assert identity is not None
    return Path("runs") / "-".join([*names, identity[:DIGITS]])


def _print_plan(folder: Path, found: Plan, *, done: int) -> None:
    """What a run in a folder would do, of which `done` epochs are done."""
    keep("plan", {**asdict(found), "total_seconds": found.total_seconds})
    rows = [
        *found.about.items(),
        ("epochs", f"{found.epochs} of {found.batches} batches; {found.updates} updates"),
        ("a batch", f"{found.batch_seconds:.3g} s"),
        ("a validation", f"{found.validation_seconds:.3g} s, {found.validations} times"),
    ]
    if done:
        rows.append(("done", f"{done} epochs"))
    print_table(f"{folder}, planned", ["", ""], rows, text=2)
    left = found.total_seconds * (found.epochs - done) / found.epochs
    say(f"about {_time(left)} here; nothing was written")


def _time(seconds: float) -> str:
    """A length of time in words.

    >>> _time(7.6), _time(200), _time(9000)
    ('8 s', '3 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
