"""Records that a table finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from protoat.paper.tables.fill import Filled
from protoat.runs.run import Run

from . import records


@pytest.fixture
def filled_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Filled]:
    """Builds the table of `records` where only the given runs are done."""

    def build(runs: dict[str, Run], **options) -> Filled:
        monkeypatch.setattr("protoat.paper.tables.fill.finished", records.by_name(runs))
        return records.table(tmp_path, **options)

    return build
