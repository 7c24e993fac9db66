"""The base class of minimal-norm attacks, which look for the nearest adversarial example."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from protoat.attacks.active import is_adversarial
from protoat.attacks.base import Attack
from protoat.functional.batch import leading
from protoat.functional.forward import as_module
from protoat.functional.gradients import gradient_of
from protoat.functional.hidden import hidden_parts_in_eval
from protoat.functional.norms import Norm


class Closest(NamedTuple):
    """Nearest adversarial images.

    Attributes:
        x_adv: (B, ...) images; the clean one where none was found.
        distance: (B,) how far they lie from the clean ones; 0 where the model is wrong already, inf where none.
    """

    x_adv: Tensor
    distance: Tensor


class MinimalNormAttack(Attack):
    """An attack whose own question is how near the nearest adversarial image lies.

    Called with a threat model it stops improving an image once it is adversarial inside the budget. `closest` asks its
    own question instead.
    """

    @property
    def norm(self) -> Norm:
        """The distance it makes small."""
        return self.threat.geometry

    def length(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """(B,) how far images lie from the clean ones, as `closest` tells it."""
        return self.norm.distance(x_adv, x)

    def closest(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        targets: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Closest:
        """The nearest adversarial images it can find, and their distances, without a budget.

        Args:
            model, x, y, targets, generator: as in `perturb`.
        """
        # With no budget nothing is near enough, so the search runs to its end.
        network = as_module(model)
        with (
            hidden_parts_in_eval(self._examined(network, x, y).hidden),
            self.posed(network, x, y, targets=targets, eps=0.0, generator=generator) as problem,
        ):
            x_adv = self.run(problem).detach()
            with torch.no_grad():
                found = is_adversarial(problem, problem.model(x_adv).logits)
        x_adv = torch.where(leading(found, x), x_adv, problem.x)
        return Closest(x_adv, self.length(x_adv, problem.x).where(found, torch.inf))


def nearest_boundary(logits: Tensor, x_adv: Tensor, y: Tensor, classes: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """The decision boundary that is nearest when the model is linearised at `x_adv`.

    Args:
        logits: (B, C) at `x_adv`, with their graph.
        x_adv: (B, ...) leaf that the graph starts from.
        y: (B,) labels.
        classes: (B, M) candidates on the other side.
        norm: distances are measured in it.

    Returns:
        Lead ``z_k - z_y`` of the class behind that boundary, (B,), and its gradient, shape of `x_adv`.
    """
    leads = logits.gather(1, classes) - logits.gather(1, y[:, None])
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for column, lead in enumerate(leads.unbind(1)):
        last = column == leads.shape[1] - 1
        gradient = gradient_of(lead.sum(), x_adv, retain_graph=not last)
        if leads.shape[1] == 1:
            return lead.detach(), gradient
        away = lead.detach().abs() / norm.dual(gradient).clamp_min(1e-12)
        if best is None:
            best = away, lead.detach(), gradient
            continue
        nearer = away < best[0]
        best = (
            torch.where(nearer, away, best[0]),
            torch.where(nearer, lead.detach(), best[1]),
            torch.where(leading(nearer, gradient), gradient, best[2]),
        )
    assert best is not None
    return best[1], best[2]
