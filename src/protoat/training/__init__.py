"""Training: `fit`, its schedules, and what it stores."""

from protoat.errors import CheckpointError, DiskError, Interrupted, NonFiniteLossError
from protoat.training.averaging import EMA, FAWA, SWA, Averaging
from protoat.training.devices import make_accelerator
from protoat.training.fit import FitResult, fit
from protoat.training.lars import LARS
from protoat.training.optimizer_state import parameter_groups
from protoat.training.schedule import Constant, Cyclic, Schedule, StepDecay, WarmupCosine
from protoat.training.torch_schedule import TorchSchedule
from protoat.training.weights import load_weights

__all__ = [
    "EMA",
    "FAWA",
    "LARS",
    "SWA",
    "Averaging",
    "CheckpointError",
    "Constant",
    "Cyclic",
    "DiskError",
    "FitResult",
    "Interrupted",
    "NonFiniteLossError",
    "Schedule",
    "StepDecay",
    "TorchSchedule",
    "WarmupCosine",
    "fit",
    "load_weights",
    "make_accelerator",
    "parameter_groups",
]
