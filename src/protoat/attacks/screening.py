"""Screens queries of a search in bfloat16, so that float32 measures only those that may be better."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from protoat.attacks.active import Rows, among
from protoat.attacks.attacked_model import AttackedModel
from protoat.attacks.precision import EXACT, are_results_judged, present_precision
from protoat.attacks.problem import Problem


@dataclass
class Screen(Rows):
    """The leads of a search's current points in bfloat16; queries that do not raise them are rejected.

    Float32 measures every other query and alone accepts.

    Attributes:
        lead: (B,) by how much the attack is ahead, as in `Problem.lead`, in bfloat16.
    """

    lead: Tensor

    @classmethod
    def of(cls, problem: Problem, x_adv: Tensor, lead: Tensor) -> Screen | None:
        """The screen of a search that begins at `x_adv`, where float32 finds `lead`; None if it measures every query.

        None if float32 was asked for, in training, if bfloat16 does not resolve the logits, see
        `AttackedModel.resolves`, or if the network computes in its own precision under autocast, as in float64.
        """
        model = problem.model
        if present_precision() == "fp32" or not are_results_judged() or not isinstance(model, AttackedModel):
            return None
        coarse = problem.lead(model.coarse(x_adv))
        return None if torch.equal(coarse, lead) or not model.resolves(x_adv) else cls(coarse)

    def likely(self, part: Problem, rows: Tensor, images: Tensor) -> tuple[Problem, Tensor, Tensor, Tensor]:
        """The queries that may be better: their problem, rows, images and leads in bfloat16."""
        assert isinstance(part.model, AttackedModel)
        coarse = part.lead(part.model.coarse(images))
        problem, *found = among(coarse > self.lead[rows], part, rows, images, coarse)
        return problem, *found


def screened(queries: int) -> int:
    """How many of the first queries are screened; of the last quarter, whose gains are smallest, none is.

    >>> screened(5000)
    3750
    """
    return int((1 - EXACT) * queries)
