"""Report sections computed from weights and images: embedding map, retrieval."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from protoat.errors import UserError
from protoat.reports.blocks import Block, Chart, Fragment, Section, Text
from protoat.runs.records import Records

__all__ = ["embedding", "from_weights", "retrieved"]

logger = logging.getLogger(__name__)

_ATTACK = "pgd10"
_QUERIES, _NEIGHBOURS = 6, 4


def from_weights(found: Sequence[Records], images: int, draw: Callable[[], Sequence[Block]]) -> Sequence[Block]:
    """What `draw` gives, or one line that says why it cannot be drawn."""
    if any(records.run is None for records in found):
        reason = "needs a run, and this folder holds a measurement only"
    elif not all(records.has_weights for records in found):
        reason = "needs weights, and this folder holds records only"
    elif not images:
        reason = "is computed from weights and images, which were left out (--images 0)"
    else:
        try:
            return draw()
        except UserError as error:
            logger.warning("%s: left out: %s", " and ".join(str(records.path) for records in found), error)
            reason = f"could not be drawn: {error}"
    return [Text(f"This {reason}.", "missing")]


def embedding(records: Records, images: int) -> Section:
    """The map of embeddings, with the image of each point."""

    def draw() -> Sequence[Block]:
        from protoat.plots.map import embedding_map

        about = (
            "Test images by their embeddings, clean and attacked; near points look alike to the model. The buttons "
            "below step through the points and show each image with its class, mode and prediction in words."
        )
        figure = embedding_map(records.path, images=images, attack=_ATTACK)
        return [Chart(f"Embeddings, clean and under {_ATTACK}", figure, about, images=True)]

    return Section("map", "Map of embeddings", from_weights([records], images, draw))


def retrieved(found: Sequence[Records], images: int) -> Section:
    """Which images lie nearest to clean and attacked queries, in one run or in several."""

    def draw() -> Sequence[Block]:
        from protoat.plots.retrieval import retrieval

        folders = [records.path for records in found]
        shown = retrieval(folders, queries=_QUERIES, k=_NEIGHBOURS, attack=_ATTACK, images=images)
        return [Fragment(f"The {_NEIGHBOURS} nearest images by embedding, clean and under {_ATTACK}", shown)]

    return Section("retrieval", "Retrieval", from_weights(found, images, draw))
