"""Training curves: loss and held-out accuracy of every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protoat.errors import UserError
from protoat.plots.plot import Plot, styled
from protoat.plots.style import accuracy_axis, chosen, colour, dash, labels, legend
from protoat.runs.claims import called
from protoat.runs.run import Run

_MEASURED = {"clean": ("held out, clean", "-", "o"), "robust": ("held out, attacked", "--", "^")}


@styled
def training_curves(runs: Sequence[Path | str]) -> Plot:
    """Loss, and accuracy on held-out images, against epochs; an epoch that a method took back is left out.

    Args:
        runs: run folders, finished or not; weights are not needed.

    Raises:
        ValueError: a folder that is no run, or in which no epoch is recorded.
    """
    folders = chosen(runs)
    found = list(zip(labels(folders), map(Run, folders), strict=True))
    for _, run in found:
        if not run.epochs:
            raise UserError(f"{called(run.path)} holds no epoch yet; train it: protoat train")
    about = [f"{name}: {run.progress} epochs" + f", {run.state}" * bool(run.state) for name, run in found]
    plot = Plot("Training", about, size=(5, 3.9 + 0.3 * len(found)))  # of each the legends name three lines
    losses, accuracies = plot.subplots(2, sharex=True)
    for place, (name, run) in enumerate(found):
        own: dict[str, Any] = {"color": colour(place), "markersize": 3}
        prefix = f"{name}: " if len(found) > 1 else ""
        epochs, totals = [line.epoch for line in run.epochs], [line.total for line in run.epochs]
        losses.plot(epochs, totals, dash(place), marker="o", label=f"{prefix}loss", **own)
        for key, (words, style, sign) in _MEASURED.items():
            measured = [
                (line.epoch, 100 * line.held_out.shares[key])
                for line in run.epochs
                if line.held_out is not None and key in line.held_out.shares
            ]
            if measured:
                accuracies.plot(*zip(*measured, strict=True), style, marker=sign, label=f"{prefix}{words}", **own)
    losses.set(ylabel="loss")
    losses.grid(axis="y")
    accuracies.set(xlabel="epoch")
    accuracies.xaxis.get_major_locator().set_params(integer=True)
    accuracy_axis(accuracies)
    if len(found) > 1:
        legend(losses)
    if accuracies.get_legend_handles_labels()[0]:
        legend(accuracies)
    return plot
