"""Warns of settings that ask for what never happens in a run."""

from __future__ import annotations

import logging

from torch import nn

from protoat.models import multi_prototype_head
from protoat.objective import Objective
from protoat.training.averaging import Averaging
from protoat.training.schedule import Schedule
from protoat.training.torch_schedule import TorchSchedule

__all__ = ["warn_of_the_unreached"]

logger = logging.getLogger(__name__)


def warn_of_the_unreached(
    model: nn.Module, objective: Objective, schedule: Schedule, rule: Averaging | None, *, epochs: int, updates: int
) -> None:
    """What the settings ask for beyond the end of the run."""
    found = schedule.missed(epochs, updates) if isinstance(schedule, TorchSchedule) else schedule.unreached(epochs)
    goal, head = objective, multi_prototype_head(model)
    for part in (goal.method, goal.regularizer, goal.modes, goal.weighting, head, rule):
        found += [] if part is None else part.unreached(epochs)
    for text in found:
        logger.warning("in a run of %d epoch%s %s", epochs, "s" * (epochs > 1), text)
