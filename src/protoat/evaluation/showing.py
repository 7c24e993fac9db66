"""Renders results as text and as HTML, for ``print`` and for notebooks."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from protoat.evaluation.statistics import percentage
from protoat.names import printable

if TYPE_CHECKING:
    from protoat.evaluation.report import AttackReport

Rows = Sequence[Sequence[str]]


def accuracies(entries: Mapping[str, AttackReport], measured: Mapping[str, str] = MappingProxyType({})) -> Rows:
    """A heading and a row for each attack: accuracy with its interval, worst class and known mode.

    Args:
        measured: of each entry, whether it is of the latest measurement; empty where all are.
    """
    groups = ("worst class", "worst mode")[: 1 + any(found.has_modes for found in entries.values())]
    rows = [("attack", "accuracy, % [95 % interval]", *groups, *(["measured"] if measured else []))]
    for name, found in entries.items():
        lowest = [f"{group}: {100 * count.accuracy:.1f}" for group, count in found.worst_groups]
        rows.append(
            (name, percentage(found.accuracy, found.interval), *lowest, *([measured[name]] if measured else []))
        )
    return rows


def as_text(rows: Rows) -> str:
    """Columns under one another.

    >>> print(as_text([("attack", "%"), ("pgd10", "75.0")]))
    attack  %
    pgd10   75.0
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def as_html(rows: Rows, title: str = "") -> str:
    """A table without colours of its own, so that it looks right on light and dark pages.

    >>> as_html([("attack", "%"), ("<b>", "75.0")], "ours")
    '<table><caption>ours</caption><tr><th>attack</th><th>%</th></tr><tr><td>&lt;b&gt;</td><td>75.0</td></tr></table>'
    """

    def line(row: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(printable(cell))}</{tag}>' for cell in row)}</tr>"

    head, *body = rows
    caption = f"<caption>{html.escape(printable(title))}</caption>" if title else ""
    return f"<table>{caption}{line(head, 'th')}{''.join(line(row, 'td') for row in body)}</table>"
