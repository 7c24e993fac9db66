"""How training went: loss and held-out accuracy of every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from protoat.errors import UserError
from protoat.plots.style import accuracy_axis, chosen, colour, dash, heading, label, names, shown
from protoat.records.training import Epoch
from protoat.runs.run import Run

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter

__all__ = ["training_curves"]

_MEASURED = {"clean": "held out, clean", "robust": "held out, attacked"}


def training_curves(runs: Sequence[Path | str]) -> Figure:
    """Loss, and accuracy on held-out images, against epochs; an epoch that a method took back is left out.

    Args:
        runs: run folders, finished or not; weights are not needed.

    Raises:
        ValueError: a folder that is no run, or in which no epoch is recorded.
    """
    from plotly.subplots import make_subplots

    folders = chosen(runs)
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.08)
    about = []
    for place, (folder, name) in enumerate(zip(folders, names(folders), strict=True)):
        run = Run(folder)
        kept = run.epochs
        if not kept:
            raise UserError(f"{folder} holds no epoch yet; train it: protoat train")
        prefix = f"{label(name)}: " if len(folders) > 1 else ""
        figure.add_trace(_loss(kept, f"{prefix}loss", place), row=1, col=1)
        for key, words in _MEASURED.items():
            if any(line.held_out is not None and key in line.held_out.shares for line in kept):
                figure.add_trace(_accuracy(kept, key, f"{prefix}{words}", place), row=2, col=1)
        about.append(f"{label(name)}: {run.progress} epochs" + f", {run.state}" * bool(run.state))
    figure.update_layout(**heading("Training", *about), height=560)
    figure.update_xaxes(title_text="epoch", row=2, col=1)
    figure.update_yaxes(title_text="loss", row=1, col=1)
    accuracy_axis(figure, row=2, col=1)
    return figure


def _loss(lines: Sequence[Epoch], name: str, place: int) -> Scatter:
    from plotly import graph_objects as go

    return go.Scatter(
        x=[line.epoch for line in lines],
        y=[line.total for line in lines],
        name=name,
        mode="lines+markers",
        line={"color": colour(place), "dash": dash(place)},
        marker={"size": 4},
    )


def _accuracy(lines: Sequence[Epoch], key: str, name: str, place: int) -> Scatter:
    from plotly import graph_objects as go

    measured = [(line.epoch, line.held_out) for line in lines if line.held_out and key in line.held_out.shares]
    counts = [found.count(key) for _, found in measured]
    return go.Scatter(
        x=[epoch for epoch, _ in measured],
        y=[100 * found.shares[key] for _, found in measured],
        name=name,
        mode="lines+markers",
        line={"color": colour(place), "dash": "solid" if key == "clean" else "dash"},
        marker={"size": 6, "symbol": "circle" if key == "clean" else "triangle-up"},
        hovertext=[
            f"{name}, epoch {epoch}: {shown(count)}" for (epoch, _), count in zip(measured, counts, strict=True)
        ],
        hoverinfo="text",
    )
