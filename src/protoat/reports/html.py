"""Writes the HTML report of one or several runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

import protoat
from protoat.errors import UserError
from protoat.plots.style import names
from protoat.plots.subject import Pictured
from protoat.reports.blocks import Block, Section
from protoat.reports.comparison import comparison
from protoat.reports.page import Chapter, render
from protoat.reports.records import records_of
from protoat.reports.sections.measured import attacks, groups
from protoat.reports.sections.pictures import Views, embedding, gallery, retrieved
from protoat.reports.sections.provenance import audit, environment, lint, recipe, redo
from protoat.reports.sections.summary import summary
from protoat.reports.sections.training import prototypes, training
from protoat.runs.claims import find_run
from protoat.runs.records import Records
from protoat.runs.run import Run
from protoat.runs.store import write

# Of each section its place in the address, its title, and what is in it.
_SECTIONS: tuple[tuple[str, str, Callable[[Records, Views], Sequence[Block]]], ...] = (
    ("summary", "Summary", lambda records, _: summary(records)),
    ("gallery", "Attacked images", gallery),
    ("modes", "Classes and modes", lambda records, _: groups(records)),
    ("attacks", "Attacks", lambda records, _: attacks(records)),
    ("map", "Map of embeddings", embedding),
    ("prototypes", "Prototypes", prototypes),
    ("retrieval", "Retrieval", lambda records, views: retrieved([records], views)),
    ("training", "Training", lambda records, _: training(records)),
    ("audit", "Audit", lambda records, _: audit(records)),
    ("lint", "Lint", lambda records, _: lint(records)),
    ("recipe", "Recipe", lambda records, _: recipe(records)),
    ("environment", "Environment", lambda records, _: environment(records)),
    ("redo", "Do it again", lambda records, _: redo(records)),
)


def report(
    folders: Sequence[Path | str],
    out: Path | str,
    *,
    images: int = 300,
    advance: Callable[[float, float, str], None] | None = None,
) -> Path:
    """Writes one HTML file that opens from disk, without a network.

    Args:
        folders: of runs, or of measurements, or runs by other names, such as ``zoo:digits-2``, see `protoat.Run`;
            several are compared, the first being what the others are compared with.
        out: the file.
        images: test images of gallery, map and retrieval, which are computed from weights; 0 leaves out whatever is.
        advance: called before each section with how many are done, how many there will be, and its name.

    Returns:
        `out`.

    Raises:
        ValueError: a folder without records, a damaged one, one that is named twice, `images` below 0.
        DiskError: the file cannot be written.
    """
    if images < 0:
        raise UserError(f"images={images} must be 0 or more")
    folders = list(map(find_run, folders))
    if not folders or len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise UserError("name at least one folder, and none of them twice")
    found = [records_of(folder) for folder in folders]
    views = {own.path: Pictured(own, images) for own in found if isinstance(own, Run) and own.has_weights and images}
    called = names([records.path for records in found])
    sections = len(_SECTIONS) * len(found) + (len(found) > 1)

    def starts(done: int, text: str) -> None:
        if advance is not None:
            advance(done, sections, text)

    chapters = []
    for number, (name, records) in enumerate(zip(called, found, strict=True)):
        contents = []
        for place, (address, title, blocks) in enumerate(_SECTIONS):
            starts(number * len(_SECTIONS) + place, f"{name}: {title.lower()}")
            contents.append(Section(address, title, blocks(records, views)))
        chapters.append(Chapter(f"run-{number + 1}", name, contents))
    if len(found) > 1:
        starts(sections - 1, "comparison")
        chapters.insert(0, Chapter("comparison", "Comparison", comparison(found, views)))
    title = " and ".join(records.name for records in found) if len(found) < 4 else f"{len(found)} runs compared"
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write(Path(out), render(title, chapters, [f"Made by protoat {protoat.__version__}, {now}."]))
    return Path(out)
