"""Sign-gradient attacks: FGSM and PGD."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from protoat.attacks.base import Attack, AttackLoss, BatchNormMode, Problem
from protoat.functional.ball import Radius, ascent_step, project, random_start
from protoat.functional.losses import cross_entropy
from protoat.types import Output, Pixels, ThreatModel

__all__ = ["FGSM", "PGD", "input_gradient"]

_SCALE = 2.0**8


def input_gradient(model: Callable[[Tensor], Output], x: Tensor, y: Tensor, loss: AttackLoss) -> tuple[Tensor, Output]:
    """Gradient of the summed loss with respect to the images only, shape of `x`, and the output it was taken at.

    The sum keeps each example's gradient free of the batch size, and a power of two, which is exact, keeps small ones
    from vanishing on their way through a model that computes in float16.
    """
    x = x.detach().requires_grad_()
    output = model(x)
    (gradient,) = torch.autograd.grad(_SCALE * loss(output, y).sum(), x)
    return gradient / _SCALE, output


class PGD(Attack):
    """Projected gradient descent: repeated steps up the loss, each projected back into the budget.

    Args:
        threat: norm and radius.
        steps: gradient steps for each restart.
        step_size: length of a step in pixels; default ``2.5 * eps / steps``, which reaches every point of the ball.
        random_start: begin at a random point of the ball (False gives BIM).
        restarts: independent runs; an image counts as robust only if all of them fail.
        loss: per-example loss to raise, ``(Output, labels) -> (B,)``; lowered at the targets when targeted.
        bn: batch norm while attacking.
        seed: repeats a call when no generator is passed.

    Source: Madry et al., ICLR 2018. Deviation: after success an image keeps the adversarial example of its first
    successful restart; otherwise that of the last restart.

    >>> from protoat.types import Linf
    >>> attack = PGD(Linf("8/255"), steps=10, step_size="2/255")
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0])
    >>> bool((attack.perturb(model, x, y) - x).abs().max() <= 8 / 255 + 1e-6)
    True
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        steps: int = 10,
        step_size: Pixels | None = None,
        random_start: bool = True,
        restarts: int = 1,
        loss: AttackLoss = cross_entropy,
        bn: BatchNormMode = "eval",
        seed: int = 0,
    ) -> None:
        super().__init__(threat, bn=bn, seed=seed)
        if steps < 1 or restarts < 1:
            raise ValueError(f"steps={steps} and restarts={restarts} must be at least 1")
        if restarts > 1 and not random_start:
            raise ValueError("restarts without a random start repeat the same run; write random_start=True")
        self.steps = steps
        self.step_size = 2.5 * threat.eps / steps if step_size is None else float(Pixels(step_size))
        if self.step_size <= 0:
            raise ValueError(f"step_size={self.step_size:g} must be positive")
        self.random_start = random_start
        self.restarts = restarts
        self.loss = loss

    def run(self, problem: Problem) -> Tensor:
        if self.restarts == 1:
            return self._once(problem)
        best = problem.x.clone()
        standing = torch.arange(len(problem.x), device=problem.x.device)
        for _ in range(self.restarts):
            part = problem._replace(
                x=problem.x[standing],
                y=problem.y[standing],
                targets=None if problem.targets is None else problem.targets[standing],
                eps=problem.eps[standing] if isinstance(problem.eps, Tensor) else problem.eps,
            )
            best[standing] = part_adv = self._once(part)
            with torch.no_grad():
                predicted = problem.model(part_adv).logits.argmax(1)
            failed = predicted == part.y if part.targets is None else predicted != part.targets
            standing = standing[failed]
            if not len(standing):
                break
        return best

    def _once(self, problem: Problem) -> Tensor:
        norm, eps = self.threat.norm, problem.eps
        # A ramped or class-wise radius scales the step with it, so that the number of steps keeps its meaning.
        step: Radius = self.step_size * (eps / self.threat.eps)
        labels, sign = (problem.y, 1.0) if problem.targets is None else (problem.targets, -1.0)
        x_adv = random_start(problem.x, eps, norm, problem.generator) if self.random_start else problem.x
        blind = torch.zeros(len(problem.x), dtype=torch.bool, device=problem.x.device)
        for _ in range(self.steps):
            gradient, _ = input_gradient(problem.model, x_adv, labels, self.loss)
            blind |= ~gradient.flatten(1).isfinite().all(1)
            x_adv = project(x_adv + sign * ascent_step(gradient, step, norm), problem.x, eps, norm)
        if bool(blind.any()):
            warnings.warn(
                f"the gradient of {int(blind.sum())} of {len(blind)} images is not finite, so this attack cannot move "
                "them as it should: accuracy under it overstates robustness",
                RuntimeWarning,
                stacklevel=2,
            )
        return x_adv


class FGSM(PGD):
    """Fast gradient sign method: one step of length eps from the image itself.

    Args:
        threat: norm and radius.
        loss: per-example loss to raise.
        bn: batch norm while attacking.

    Source: Goodfellow et al., ICLR 2015.

    >>> from protoat.types import Linf
    >>> FGSM(Linf(0.3)).parameters()["steps"]
    1
    """

    def __init__(self, threat: ThreatModel, *, loss: AttackLoss = cross_entropy, bn: BatchNormMode = "eval") -> None:
        super().__init__(threat, steps=1, step_size=threat.eps, random_start=False, loss=loss, bn=bn)
