"""Plots of runs: accuracy of modes, attacked images, curves, prototypes, embeddings, retrieval.

Each function takes a run and returns a matplotlib figure; rows of images have it as ``plot()``. Names load on first
use, as drawing libraries take a second to import.
"""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "curves": "training_curves",
    "gallery": "attacked_images",
    "map": "embedding_map",
    "modes": "accuracy_of_modes",
    "prototypes": "nearest_images prototype_counts prototype_usage usage_over_time",
    "retrieval": "retrieved_images",
    "sweeps": "accuracy_against_eps accuracy_against_steps",
    "transitions": "agreement_map transition_map",
}
_HOMES = {name: f"protoat.plots.{home}" for home, names in _EXPORTS.items() for name in names.split()}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - a list, as it should be


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'protoat.plots' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
