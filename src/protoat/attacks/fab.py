"""Fast adaptive boundary attack: walks along the decision boundary towards the image."""

from __future__ import annotations

import torch
from torch import Tensor

from protoat.arguments import check_number, check_whole
from protoat.attacks.active import among, gradient_run, is_adversarial, select
from protoat.attacks.minimal import MinimalNormAttack, nearest_boundary
from protoat.attacks.mode import BatchNormMode
from protoat.attacks.problem import Problem
from protoat.attacks.targets import ranked_wrong_classes
from protoat.functional.batch import leading
from protoat.threats import ThreatModel

# Share of the steps, the last ones, that are float32 whatever was asked for: FAB closes in slowly, and with a quarter
# its distances stayed longer.
_EXACT = 0.5


class FAB(MinimalNormAttack):
    """Fast adaptive boundary attack: steps onto the linearised boundary, drawn back towards the clean image each time.

    Args:
        threat: norm and radius.
        steps: gradient steps for each restart; each costs a backward pass for every wrong class.
        restarts: independent runs; all but the first begin at a random point within half the radius.
        alpha_max: largest share that the step from the clean image has in the average of both steps.
        eta: how far beyond the boundary a step aims.
        beta: share of the distance that is kept when an adversarial image is drawn back towards the clean one.
        bn: batch norm while attacking.
        seed: repeats a call when no generator is passed.

    Raises:
        ValueError: fewer than one step or restart.

    Under a threat model an image is done once it is adversarial inside the budget; `closest` searches to the end. With
    targets, the boundary is the one between the target and the class that leads all others.

    Source: Croce & Hein, ICML 2020, "Minimally distorted adversarial examples", Alg. 1, in all three norms.

    >>> from protoat.threats import Linf
    >>> FAB(Linf("8/255")).parameters()["eta"]
    1.05
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        steps: int = 100,
        restarts: int = 1,
        alpha_max: float = 0.1,
        eta: float = 1.05,
        beta: float = 0.9,
        bn: BatchNormMode = "eval",
        seed: int = 0,
    ) -> None:
        super().__init__(threat, bn=bn, seed=seed)
        check_whole(steps=steps, restarts=restarts)
        check_number("[0, 1]", alpha_max=alpha_max, beta=beta)
        check_number("[1, inf)", eta=eta)
        self.steps = steps
        self.restarts = restarts
        self.alpha_max = alpha_max
        self.eta = eta
        self.beta = beta

    @property
    def coarse_runs(self) -> bool:
        return True

    def groups(self, logits: Tensor, y: Tensor) -> list[Tensor]:
        """Classes whose boundaries are looked at together, each (B, M), from clean logits; one run for each group."""
        return [ranked_wrong_classes(logits, y)]

    @torch.no_grad()
    def run(self, problem: Problem) -> Tensor:
        logits = problem.model(problem.x).logits
        groups = self.groups(logits, problem.y) if problem.targets is None else [problem.targets[:, None]]
        nearest = problem.x.clone()
        reach = torch.full_like(logits[:, 0], torch.inf, dtype=nearest.dtype).masked_fill(
            is_adversarial(problem, logits), 0
        )
        eps = torch.as_tensor(problem.eps).to(reach)
        eps = torch.where(eps > 0, eps, self.threat.eps).expand_as(reach)  # `closest` sets none
        for classes in groups:
            for restart in range(self.restarts):
                rows = (reach > problem.eps).nonzero().squeeze(1)
                if not len(rows):
                    return nearest
                part = select(problem, rows)
                radius = torch.minimum(reach, eps)[rows] / 2
                start = self.norm.far_start(part.x, radius, part.generator) if restart else part.x
                with gradient_run(part, self.steps, exact=_EXACT):
                    x_adv, length = self._search(part, classes[rows], start)
                closer = length < reach[rows]
                nearest[rows[closer]], reach[rows[closer]] = x_adv[closer], length[closer]
        return nearest

    def _search(self, problem: Problem, classes: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """One run from `x_adv`: the nearest adversarial images it met and their distances, inf where none."""
        nearest = problem.x.clone()
        reach = torch.full_like(problem.y, torch.inf, dtype=nearest.dtype)
        rows = torch.arange(len(reach), device=reach.device)
        for step in range(self.steps + 1):
            adversarial = is_adversarial(problem, problem.model(x_adv).logits)
            if bool(adversarial.any()):
                length = self.norm.distance(x_adv, problem.x)
                closer = adversarial & (length < reach[rows])
                nearest[rows[closer]], reach[rows[closer]] = x_adv[closer], length[closer]
                x_adv = torch.where(leading(adversarial, x_adv), problem.x + self.beta * (x_adv - problem.x), x_adv)
                done = adversarial & (length <= problem.eps)
                if bool(done.any()):
                    problem, rows, x_adv, classes = among(~done, problem, rows, x_adv, classes)
            if step == self.steps or not len(rows):
                break
            with torch.enable_grad():
                leaf = x_adv.detach().requires_grad_()
                logits = problem.model(leaf).logits.to(leaf.dtype)
                lead, slope = nearest_boundary(logits, leaf, _rivals(problem, logits), classes, self.norm)
            x_adv = self._step(problem.x, x_adv, lead, slope)
        return nearest, reach

    def _step(self, x: Tensor, x_adv: Tensor, lead: Tensor, slope: Tensor) -> Tensor:
        """Steps onto the plane ``lead + slope . d = 0`` from `x_adv` and from `x`, averaged by their lengths."""
        flat = slope.flatten(1)
        offset = (flat * (x_adv - x).flatten(1)).sum(1)
        from_here = self.norm.onto_plane(x_adv.flatten(1), flat, -lead)
        from_clean = self.norm.onto_plane(x.flatten(1), flat, offset - lead)
        here, clean = (
            torch.linalg.vector_norm(step, self.norm.order, dim=1).clamp_min(1e-8) for step in (from_here, from_clean)
        )
        alpha = leading((here / (here + clean)).clamp(max=self.alpha_max), x)
        here, clean = x_adv.add(from_here.view_as(x), alpha=self.eta), x.add(from_clean.view_as(x), alpha=self.eta)
        return torch.lerp(here, clean, alpha).clamp_(0, 1)


def _rivals(problem: Problem, logits: Tensor) -> Tensor:
    """The class on the near side of the boundary, (B,): the label or, on the way to a target, whoever leads it."""
    if problem.targets is None:
        return problem.y
    return logits.detach().scatter(1, problem.targets[:, None], -torch.inf).argmax(1)


class FABT(FAB):
    """Targeted FAB: one boundary at a time, towards the likeliest wrong classes one after the other.

    A step costs one backward pass however many classes there are.

    Args:
        threat: norm and radius.
        num_targets: wrong classes tried, by falling clean logit; all of them where the model has fewer.
        steps: gradient steps for each target and restart.
        restarts: independent runs for each target.
        alpha_max, eta, beta, bn, seed: as in `FAB`.

    Raises:
        ValueError: fewer than one step, restart or target.

    Source: Croce & Hein, ICML 2020, FAB-T of AutoAttack.

    >>> from protoat.threats import Linf
    >>> FABT(Linf("8/255"), num_targets=4).parameters()["num_targets"]
    4
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        num_targets: int = 9,
        steps: int = 100,
        restarts: int = 1,
        alpha_max: float = 0.1,
        eta: float = 1.05,
        beta: float = 0.9,
        bn: BatchNormMode = "eval",
        seed: int = 0,
    ) -> None:
        super().__init__(
            threat, steps=steps, restarts=restarts, alpha_max=alpha_max, eta=eta, beta=beta, bn=bn, seed=seed
        )
        check_whole(num_targets=num_targets)
        self.num_targets = num_targets

    def groups(self, logits: Tensor, y: Tensor) -> list[Tensor]:
        return list(ranked_wrong_classes(logits, y)[:, : self.num_targets].split(1, dim=1))
