"""Report sections computed from weights and images: attacked images, embedding map, retrieval."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from protoat.errors import UserError
from protoat.evaluation.compare import in_words, overlap
from protoat.evaluation.statistics import percentage
from protoat.plots.subject import Pictured
from protoat.reports.blocks import Block, Chart, Gallery, Grid, Text
from protoat.runs.claims import called
from protoat.runs.records import Records

logger = logging.getLogger(__name__)

# What figures see of each run that has weights; shared, so that nothing is embedded or attacked twice.
Views = Mapping[Path, Pictured]

_ATTACK = "pgd10"
_QUERIES, _NEIGHBOURS = 6, 4
_MAPPED = 450  # images on the maps of three runs and more together, so that a page stays small enough to send


def from_weights(
    what: str, found: Sequence[Records], views: Views, draw: Callable[[], Sequence[Block]]
) -> Sequence[Block]:
    """What `draw` gives, or one line that says why it cannot be drawn."""
    if any(records.run is None for records in found):
        reason = "needs a run, and this folder holds a measurement only"
    elif not all(records.has_weights for records in found):
        reason = "needs weights, and this folder holds records only"
    elif any(records.path not in views for records in found):
        reason = "is computed from weights and images, which were left out (--images 0)"
    else:
        try:
            return draw()
        except UserError as error:
            names = " and ".join(called(records.path) for records in found)
            logger.warning("%s of %s: left out: %s", what, names, error)
            reason = f"could not be drawn: {error}"
    return [Text(f"This {reason}.", "missing")]


def gallery(records: Records, views: Views) -> Sequence[Block]:
    """Images before and after an attack, the weakest modes first."""

    def draw() -> Sequence[Block]:
        from protoat.plots.gallery import attacked_images

        return [Gallery(attacked_images(views[records.path], attack=_ATTACK, each=_fewer(3, views)))]

    return from_weights("attacked images", [records], views, draw)


def embedding(records: Records, views: Views) -> Sequence[Block]:
    """The map of embeddings, with the image of each point."""

    def draw() -> Sequence[Block]:
        from protoat.plots.map import embedding_map

        about = (
            "Near points look alike to the model. The buttons below step through the points and show each image with "
            "its class, mode and prediction in words."
        )
        most = _MAPPED // len(views) if len(views) > 2 else None
        return [Chart(embedding_map(views[records.path], attack=_ATTACK, most=most), about)]

    return from_weights("map of embeddings", [records], views, draw)


def _fewer(number: int, views: Views) -> int:
    """How many pictures of a kind a run shows, of so many where there are one or two.

    >>> [_fewer(6, dict.fromkeys(map(Path, "abcdefgh"[:runs]))) for runs in (1, 2, 3, 4, 8)]
    [6, 6, 4, 3, 1]
    """
    return max(1, min(number, 2 * number // len(views)))


def retrieved(found: Sequence[Records], views: Views) -> Sequence[Block]:
    """Which images lie nearest to clean and attacked queries, in one run or in several."""

    def draw() -> Sequence[Block]:
        from protoat.plots.retrieval import retrieved_images

        seen = [views[records.path] for records in found]
        got = retrieved_images(seen, queries=_fewer(_QUERIES, views), k=_NEIGHBOURS, attack=_ATTACK)
        (reference, *_), rows = next(iter(got.precisions.values()))[1:2], []
        for name, own in got.precisions.items():
            verdict = in_words(not overlap(reference.interval, own[1].interval)) if own[1] is not reference else ""
            rows.append([name, *(percentage(each.share, each.interval) for each in own), verdict])
        columns = ["run", "clean", "attacked", "clean, same mode", "attacked, same mode", "attacked, against the first"]
        caption = f"Precision at {got.k} in %, with 95 % interval over {got.images} queries"
        short = slice(None) if len(rows) > 1 else slice(-1)
        return [Grid(caption, columns[short], [row[short] for row in rows]), Gallery(got.pictures)]

    return from_weights("retrieval", found, views, draw)
