"""What is computed from weights and images: the map of embeddings, retrieval."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from protoat.reports.blocks import Block, Chart, Fragment, Section, Text
from protoat.reports.records import Records

__all__ = ["embedding", "from_weights", "retrieved"]

logger = logging.getLogger(__name__)

_ATTACK = "pgd10"
_QUERIES, _NEIGHBOURS = 8, 4


def from_weights(records: Records, images: int, draw: Callable[[], Sequence[Block]]) -> Sequence[Block]:
    """What `draw` gives, or one line that says why it cannot be drawn."""
    if records.run is None:
        reason = "needs a run, and this folder holds a measurement only"
    elif not records.has_weights:
        reason = "needs weights, and this folder holds records only"
    elif not images:
        reason = "is computed from weights and images, which were left out (--images 0)"
    else:
        try:
            return draw()
        except (ValueError, FileNotFoundError) as error:
            logger.warning("%s: left out: %s", records.folder, error)
            reason = f"could not be drawn: {error}"
    return [Text(f"This {reason}.", "missing")]


def embedding(records: Records, images: int) -> Section:
    """The map of embeddings, with the image of each point."""

    def draw() -> Sequence[Block]:
        from protoat.figures.map import embedding_map

        about = (
            "Test images by their embeddings, clean and attacked; near points look alike to the model. The buttons "
            "below step through the points and show each image with its class, mode and prediction in words."
        )
        figure = embedding_map(records.folder, images=images, attack=_ATTACK)
        return [Chart(f"Embeddings, clean and under {_ATTACK}", figure, about, images=True)]

    return Section("map", "Map of embeddings", from_weights(records, images, draw))


def retrieved(records: Records, images: int) -> Section:
    """Which images lie nearest to clean and attacked queries."""

    def draw() -> Sequence[Block]:
        from protoat.figures.retrieval import retrieval

        found = retrieval([records.folder], queries=_QUERIES, k=_NEIGHBOURS, attack=_ATTACK)
        return [Fragment(f"The {_NEIGHBOURS} nearest images by embedding, clean and under {_ATTACK}", found)]

    return Section("retrieval", "Retrieval", from_weights(records, images, draw))
