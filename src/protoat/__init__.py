"""Multi-prototype adversarial training, and an honest measurement of how robust its models are.

Sub-packages load on first use, so that ``import protoat`` and ``protoat --help`` do not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from protoat._version import __version__

if TYPE_CHECKING:
    from protoat import attacks, data, evaluation, functional, methods, models, pretraining, regularizers, training
    from protoat.evaluation import evaluate
    from protoat.objective import Objective
    from protoat.runs.run import load_run
    from protoat.training import fit
    from protoat.types import L2, Linf, Output, ThreatModel

_HOMES = {
    "Objective": "protoat.objective",
    "fit": "protoat.training",
    "evaluate": "protoat.evaluation",
    "load_run": "protoat.runs.run",
    "Linf": "protoat.types",
    "L2": "protoat.types",
    "Output": "protoat.types",
    "ThreatModel": "protoat.types",
}
_PACKAGES = (
    "attacks",
    "data",
    "evaluation",
    "functional",
    "methods",
    "models",
    "pretraining",
    "regularizers",
    "training",
)

__all__ = [
    "L2",
    "Linf",
    "Objective",
    "Output",
    "ThreatModel",
    "__version__",
    "attacks",
    "data",
    "evaluate",
    "evaluation",
    "fit",
    "functional",
    "load_run",
    "methods",
    "models",
    "pretraining",
    "regularizers",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"protoat.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'protoat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
