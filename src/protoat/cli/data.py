"""``protoat data``."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import partial

from protoat import data
from protoat.cli.advice import advise
from protoat.cli.printing import print_table
from protoat.cli.say import say
from protoat.data import Source
from protoat.data.cache import USUAL_SIDE, MixedSizesError
from protoat.data.inventory import Inventory
from protoat.errors import UserError
from protoat.names import nearest
from protoat.recipes.choices import choices_of
from protoat.recipes.parser import Parser

logger = logging.getLogger(__name__)

_OF_OWN_IMAGES = ("path", "image_size", "image", "label", "mode", "subset")


def main(args: list[str]) -> None:
    """Lists data sets, or looks for one, or downloads it."""
    advise(lambda: {key: [key] for key in _OF_OWN_IMAGES})
    parser = Parser("protoat data")
    parser.add_argument(
        "name", nargs="?", type=str | None, help="one data set, or HF:NAME of Hugging Face or a folder; default all"
    )
    parser.add_argument("--download", action="store_true", help="fetch the data set")
    parser.add_argument("--path", type=str | None, help="of ImageFolder: the folder")
    parser.add_argument(
        "--image_size", type=int | None, help="of ImageFolder and HF:NAME: pixels a side, where images differ"
    )
    for column in ("image", "label", "mode"):
        parser.add_argument(f"--{column}", type=str | None, help=f"of HF:NAME: column of {column}s")
    parser.add_argument("--subset", type=str | None, help="of HF:NAME: one of its configurations")
    parser.add_argument("--root", type=str | None, help="where to look; default PROTOAT_DATA or ~/.cache/protoat/data")
    options = parser.parse_args(args)
    more = {key: options[key] for key in _OF_OWN_IMAGES if options[key] is not None}
    if options.name is not None and options.name.startswith("HF:"):
        options.name, more["path"] = "HFDataset", options.name.removeprefix("HF:")
    sources = {name: getattr(data, name) for name in choices_of("data")}
    if options.name is not None and options.name not in sources:
        raise UserError(f"data set {options.name!r} is unknown; {nearest(options.name, sources)}")
    if options.download and options.name is None:
        raise UserError("--download fetches one data set at a time; name it: protoat data MNIST --download")
    chosen = [sources[options.name]] if options.name else list(sources.values())
    taken = inspect.signature(chosen[0]).parameters if options.name else {}
    for key in more:
        if key not in taken:
            raise UserError(
                f"--{key} is of your own images; write protoat data ImageFolder --path FOLDER, or protoat data HF:NAME"
            )
    found = [source(root=options.root, **more) for source in chosen]
    if options.download:
        found[0].fetch()
    rows = [
        [source.name, "yes" if source.available() else "no", str(source.location() or "comes with a package")]
        for source in found
    ]
    print_table("data sets", ["name", "there", "looked for in"], rows, text=3)
    inventory = _inventory(found[0], partial(chosen[0], root=options.root, **more)) if options.name else None
    if inventory is not None:
        say(str(inventory), lines=True)
    if options.name and not found[0].available():
        say(found[0].not_found())
    elif any(source.downloadable and not source.available() for source in found):
        say("set PROTOAT_DATA to the folder that holds them, or download one: protoat data NAME --download")


def _inventory(source: Source, again: Callable[..., Source]) -> Inventory | None:
    """That of a source; pictures of mixed size are brought to one, as `protoat train` does."""
    try:
        return source.inventory()
    except MixedSizesError as error:
        logger.info("pictures of mixed size (%s) are brought to %d; --image_size says another", error.found, USUAL_SIDE)
        return again(image_size=USUAL_SIDE).inventory()
