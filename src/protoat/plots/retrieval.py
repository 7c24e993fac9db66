"""The paper's Figure 4: the images nearest to a query by their embeddings, clean and attacked, for several runs."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from protoat.errors import UserError
from protoat.evaluation.compare import in_words, overlap
from protoat.evaluation.embedding import Embedded
from protoat.evaluation.retrieval import Precision, nearest_neighbours, precision
from protoat.evaluation.statistics import percentage
from protoat.plots.pictures import image_tag
from protoat.plots.style import chosen, names
from protoat.plots.subject import Pictured, said

__all__ = ["retrieval"]


class _Found(NamedTuple):
    """Queries of one kind as a run saw them, and the (Q, k) images of the gallery that it finds for them."""

    queries: Embedded
    neighbours: Tensor


def retrieval(
    runs: Sequence[Path | str],
    *,
    queries: int = 4,
    k: int = 4,
    attack: str = "pgd10",
    images: int | None = 1000,
) -> str:
    """The `k` nearest images to some queries in every run, and how often all queries find their class; HTML.

    The gallery are clean test images; each of them is a query too, clean and attacked, and never finds itself.

    Args:
        runs: folders with weights, on the same test images.
        queries: how many are shown, from different modes as far as possible.
        k: neighbours of a query.
        attack: name as for ``protoat evaluate``; each run is attacked by itself.
        images: size of the gallery, a share of each mode; None takes all test images.

    Raises:
        ValueError: see `Pictured`; runs on different images or threat models, numbers out of range, an unknown attack.
        DataNotFoundError: the test images are not there.
    """
    folders = chosen(runs)
    seen = [Pictured(folder, images) for folder in folders]
    if len({(each.subject.identity["data_sha256"], each.subject.threat) for each in seen}) > 1:
        raise UserError("the runs have different test images or threat models; retrieval compares runs on the same")
    if not 1 <= queries <= len(seen[0].data):
        raise UserError(f"queries={queries} are asked for, and there are {len(seen[0].data)} images")
    found = [_retrieved(each, k, attack) for each in seen]
    titles = [html.escape(name) for name in names(folders)]
    shown = "".join(_query(place, titles, seen, found) for place in _queries(seen[0], queries))
    return f'<div class="protoat-retrieval">{_summary(titles, seen, found, k, attack)}{shown}</div>'


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


def _summary(
    titles: Sequence[str], seen: Sequence[Pictured], found: Sequence[dict[str, _Found]], k: int, attack: str
) -> str:
    labels, modes = seen[0].data.labels, seen[0].data.modes
    rows = []
    first: Precision | None = None
    for title, own in zip(titles, found, strict=True):
        measured = {kind: precision(part.neighbours, labels, labels) for kind, part in own.items()}
        of_modes = [precision(part.neighbours, modes, modes) for part in own.values()]
        cells = [percentage(each.share, each.interval) for each in (*measured.values(), *of_modes)]
        cells.append("" if first is None else in_words(not overlap(first.interval, measured["attacked"].interval)))
        first = first or measured["attacked"]
        rows.append(f'<tr><th scope="row">{title}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    columns = ["run", "clean", "attacked", "clean, same mode", "attacked, same mode", "attacked, against the first"]
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    threat = seen[0].subject.threat
    return _table(
        f"Precision at {k} in %, with 95 % interval over {len(labels)} queries: share of the {k} nearest of "
        f"{len(labels)} test images by cosine of embeddings that are of the class of the query. Attacked: "
        f"{html.escape(attack)}, {threat.norm}, eps {threat.eps:.4g}, on each run by itself.",
        head,
        "".join(rows),
    )


def _query(place: int, titles: Sequence[str], seen: Sequence[Pictured], found: Sequence[dict[str, _Found]]) -> str:
    data = seen[0].data
    rows = []
    for title, own in zip(titles, found, strict=True):
        for kind, part in own.items():
            predicted = said(data, part.queries.predicted[place])
            words = f"query, {kind}, class {data.class_names[int(data.labels[place])]}, taken for {predicted}"
            neighbours = "".join(_neighbour(seen[0], place, other) for other in part.neighbours[place].tolist())
            query = f"<td>{image_tag(part.queries.images[place], words)}</td>"
            rows.append(f'<tr><th scope="row">{title}, {kind}</th>{query}<td>{neighbours}</td></tr>')
    name = f"{data.class_names[int(data.labels[place])]}, mode {data.mode_names[int(data.modes[place])]}"
    head = "".join(f'<th scope="col">{column}</th>' for column in ("run", "query", "nearest images, the nearest first"))
    return _table(f"Query of class {html.escape(name)}", head, "".join(rows))


def _neighbour(seen: Pictured, query: int, other: int) -> str:
    """A retrieved image; one of another class has a red frame, a cross and says so."""
    data = seen.data
    name, mode = data.class_names[int(data.labels[other])], data.mode_names[int(data.modes[other])]
    wrong = bool(data.labels[other] != data.labels[query])
    frame = "3px dashed #d00000" if wrong else "1px solid #888888"
    text = f"{'wrong class' if wrong else 'same class'}: {name}, mode {mode}"
    mark = "&#10007; " if wrong else ""
    return (
        f'<figure class="{"wrong" if wrong else "right"}" style="display:inline-block;margin:4px;text-align:center">'
        f'<span style="display:inline-block;outline:{frame}">{image_tag(data.images[other], text)}</span>'
        f"<figcaption>{mark}{html.escape(mode)}</figcaption></figure>"
    )


def _table(caption: str, head: str, body: str) -> str:
    return (
        f'<div style="overflow-x:auto"><table><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
