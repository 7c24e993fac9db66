"""The paper's Figure 4: the images nearest to a query by their embeddings, clean and attacked, for several runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from protoat.errors import UserError
from protoat.evaluation.embedding import Embedded
from protoat.evaluation.retrieval import Precision, nearest_neighbours, precision
from protoat.plots.pictures import Picture, Pictures, Row
from protoat.plots.style import chosen, names
from protoat.plots.subject import Pictured, Seen, in_words, mode_name, said


class Retrieval(NamedTuple):
    """What runs retrieve.

    Attributes:
        pictures: some queries with the images nearest to them.
        precisions: of each run by name, what all queries find: clean and attacked of their class, then of their mode.
        k: neighbours of a query.
        images: queries in all, and images to find.
    """

    pictures: Pictures
    precisions: dict[str, list[Precision]]
    k: int
    images: int


class _Found(NamedTuple):
    """Queries of one kind as a run saw them, and the (Q, k) images of the gallery that it finds for them."""

    queries: Embedded
    neighbours: Tensor


def retrieved_images(
    runs: Sequence[Seen],
    *,
    queries: int = 4,
    k: int = 4,
    attack: str = "pgd10",
    images: int | None = 1000,
) -> Retrieval:
    """The `k` nearest images to some queries in every run, and how often all queries find their class.

    The gallery are clean test images; each of them is a query too, clean and attacked, and never finds itself.

    Args:
        runs: with weights, on the same test images.
        queries: how many are shown, from different modes as far as possible.
        k: neighbours of a query.
        attack: name as for ``protoat evaluate``; each run is attacked by itself.
        images: size of the gallery, a share of each mode; None takes all test images.

    Raises:
        ValueError: see `Pictured`; runs on different images or threat models, numbers out of range, an unknown attack.
        DataNotFoundError: the test images are not there.
    """
    seen = [Pictured.of(run, images) for run in runs]
    folders = chosen([each.path for each in seen])
    if len({(each.subject.identity["data_sha256"], each.subject.threat) for each in seen}) > 1:
        raise UserError("the runs have different test images or threat models; retrieval compares runs on the same")
    data, threat = seen[0].data, seen[0].threat(attack)
    if not 1 <= queries <= len(data):
        raise UserError(f"queries={queries} are asked for, and there are {len(data)} images")
    found = dict(zip(names(folders), (_retrieved(each, k, attack) for each in seen), strict=True))
    rows = [row for place in _queries(seen[0], queries) for row in _query(place, seen[0], found)]
    about = (
        f"each query, then its {k} nearest of {len(data)} clean test images by cosine of embeddings; attacked: "
        f"{attack}, {threat.norm}, eps {threat.eps:.4g}, on each run by itself"
    )
    measured = {
        name: [precision(part.neighbours, of, of) for of in (data.labels, data.modes) for part in own.values()]
        for name, own in found.items()
    }
    return Retrieval(Pictures("Retrieval", [about], rows), measured, k, len(data))


def _retrieved(seen: Pictured, k: int, attack: str) -> dict[str, _Found]:
    own = torch.arange(len(seen.data))
    return {
        kind: _Found(queries, nearest_neighbours(seen.projected(queries), seen.projected(seen.clean), k, excluded=own))
        for kind, queries in (("clean", seen.clean), ("attacked", seen.attacked(attack)))
    }


def _queries(seen: Pictured, count: int) -> list[int]:
    """Places of the images that are shown: the first of each mode, then the second of each, and so on."""
    before: dict[int, int] = {}
    turns = []
    for place, mode in enumerate(seen.data.modes.tolist()):
        turns.append((before.get(mode, 0), place))
        before[mode] = before.get(mode, 0) + 1
    return [place for _, place in sorted(turns)[:count]]


def _query(place: int, seen: Pictured, found: dict[str, dict[str, _Found]]) -> list[Row]:
    """What each run finds for one query, clean and attacked."""
    data = seen.data
    rows = []
    for name, kinds in found.items():
        for kind, part in kinds.items():
            predicted = said(data, part.queries.predicted[place])
            words = f"query, {kind}, class {data.class_names[int(data.labels[place])]}, taken for {predicted}"
            query = Picture([part.queries.images[place]], [words], f"query: {predicted}")
            neighbours = [_neighbour(seen, place, other) for other in part.neighbours[place].tolist()]
            title = f"query of {in_words(data, place)}"
            rows.append(Row(f"{name}, {kind}" if len(found) > 1 else kind, title, [query, *neighbours]))
    return rows


def _neighbour(seen: Pictured, query: int, other: int) -> Picture:
    """A retrieved image; one of another class is marked and says so."""
    data = seen.data
    wrong = bool(data.labels[other] != data.labels[query])
    text = f"{'wrong class' if wrong else 'same class'}: {in_words(data, other)}"
    return Picture([data.images[other]], [text], mode_name(data, data.modes[other]), wrong)
