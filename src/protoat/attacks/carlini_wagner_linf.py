"""The Carlini-Wagner L-inf attack: a penalty on all that moves further than a threshold, which shrinks."""

from __future__ import annotations

import torch
from torch import Tensor

from protoat.arguments import check_number
from protoat.attacks.mode import BatchNormMode
from protoat.attacks.problem import Problem
from protoat.attacks.tightening import Tightening
from protoat.functional.batch import leading
from protoat.functional.norms import Norm, norm_of
from protoat.threats import ThreatModel

_SMALLEST = 1 / 256


class CarliniWagnerLinf(Tightening):
    """Minimises ``sum(max(|x' - x| - tau, 0)) + c * max(kappa - lead, 0)``; after each success tau shrinks.

    tau begins at 1. A success leaves almost nothing beyond tau; the next tau is `tau_factor` times its largest change,
    down to 1/256. A search that fails tries every `c`: 21 of them with the defaults, of `steps` steps each.

    Args:
        threat: budget in which a success counts. The search itself always minimises the L-inf distance.
        steps: Adam steps for each value of `c`.
        learning_rate: of Adam, in the tanh space of the pixels.
        initial_const: first value of `c`.
        largest_const: a search fails where `c` reaches it.
        const_factor: by which `c` grows after a failure.
        tau_factor: by which tau shrinks after a success, in (0, 1).
        kappa: the label must be beaten (or the target lead) by this much.
        bn: batch norm while attacking.

    Raises:
        ValueError: a `tau_factor` outside (0, 1); see also `Tightening`.

    Source: Carlini & Wagner, IEEE S&P 2017, section VI-C, with the constants of the authors' code. Deviation: pixels at
    0 and 1 start 5e-4 inside.

    >>> from protoat.threats import Linf
    >>> model, x, y = torch.nn.Flatten(), torch.tensor([[[[0.6, 0.2]]]]), torch.tensor([0])
    >>> attack = CarliniWagnerLinf(Linf(1), steps=100, learning_rate=0.02, initial_const=0.1)
    >>> bool(0.2 < attack.closest(model, x, y).distance < 0.22)  # the boundary is 0.2 away
    True
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        steps: int = 1000,
        learning_rate: float = 5e-3,
        initial_const: float = 1e-5,
        largest_const: float = 20.0,
        const_factor: float = 2.0,
        tau_factor: float = 0.9,
        kappa: float = 0.0,
        bn: BatchNormMode = "eval",
    ) -> None:
        super().__init__(
            threat,
            steps=steps,
            learning_rate=learning_rate,
            initial_const=initial_const,
            largest_const=largest_const,
            const_factor=const_factor,
            kappa=kappa,
            bn=bn,
        )
        check_number("(0, 1)", "0.9 shrinks tau by a tenth", tau_factor=tau_factor)
        self.tau_factor = tau_factor

    @property
    def norm(self) -> Norm:
        return norm_of("linf")

    def widest(self, x: Tensor) -> Tensor:
        return torch.ones(len(x), dtype=x.dtype, device=x.device)

    def held(self, x_adv: Tensor, x: Tensor, limit: Tensor) -> Tensor:
        return x_adv

    def cost(self, x_adv: Tensor, x: Tensor, limit: Tensor) -> Tensor:
        return ((x_adv - x).abs() - leading(limit, x)).clamp_min(0).flatten(1).sum(1)

    def kept(self, cost: Tensor, const: Tensor) -> Tensor:
        return cost < 1e-4 * const

    def tighter(self, problem: Problem, x_adv: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
        tau = self.tau_factor * torch.minimum(self.norm.distance(x_adv, problem.x), limit)
        return tau, tau > _SMALLEST
