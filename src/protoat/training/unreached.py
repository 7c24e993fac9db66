"""Warns of settings that ask for what never happens in a run, or for the same thing twice."""

from __future__ import annotations

import logging

from torch import nn
from torch.optim import Optimizer

from protoat.models import multi_prototype_head
from protoat.objective import Objective
from protoat.spelling import setting
from protoat.training.averaging import Averaging
from protoat.training.schedule import Schedule
from protoat.training.torch_schedule import TorchSchedule

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


def warn_of_two_decays(objective: Objective, optimizer: Optimizer) -> None:
    """Kernels that both the norm term and the optimizer shrink."""
    decay = max(float(group.get("weight_decay", 0)) for group in optimizer.param_groups)
    if objective.norm == "weights" and objective.norm_weight and decay:
        logger.warning(
            "kernels decay twice: by the norm term (%s, %s), which is a decay of twice its weight, and by the "
            "optimizer (%s); write %s or %s",
            setting(norm=objective.norm),
            setting(norm_weight=objective.norm_weight),
            setting(weight_decay=decay),
            setting(norm_weight=0),
            setting(weight_decay=0),
        )
