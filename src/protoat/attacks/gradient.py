"""Steps up the gradient: FGSM and PGD."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from protoat.arguments import check_callable, check_flag, check_number, check_whole
from protoat.attacks.active import among, succeeded, worst_case
from protoat.attacks.base import Attack
from protoat.attacks.mode import BatchNormMode
from protoat.attacks.problem import AttackLoss, Problem
from protoat.errors import UserError
from protoat.functional.batch import Radius
from protoat.functional.gradients import gradient_of
from protoat.functional.losses import cross_entropy
from protoat.functional.norms import Norm
from protoat.pixels import Pixels
from protoat.threats import ThreatModel, check_threat
from protoat.types import Output

_SCALE = 2.0**8


class InputGradient(NamedTuple):
    """A gradient with respect to images, and where it was taken.

    Attributes:
        gradient: (B, ...) of the summed loss.
        loss: (B,) of each image, detached.
        output: what the model returned.
    """

    gradient: Tensor
    loss: Tensor
    output: Output


def input_gradient(model: Callable[[Tensor], Output], x: Tensor, y: Tensor, loss: AttackLoss) -> InputGradient:
    """Gradient of the summed loss with respect to the images only, the loss of each, and the output it was taken at.

    The sum keeps each example's gradient free of the batch size, and a power of two, which is exact, keeps small ones
    from vanishing on their way through a model that computes in float16.
    """
    x = x.detach().requires_grad_()
    output = model(x)
    losses = loss(output, y)
    gradient = gradient_of(_SCALE * losses.sum(), x)
    return InputGradient(gradient / _SCALE, losses.detach(), output)


def step_length(step_size: Pixels | None, default: float) -> float:
    """A step in pixels, or the default where none is given; it must be positive, as one of 0 goes nowhere.

    >>> step_length("2/255", 0.1) * 255
    2.0
    """
    length = default if step_size is None else float(Pixels(step_size))
    check_number("(0, inf)", step_size=length)
    return length


def ascend(
    problem: Problem,
    x_adv: Tensor,
    norm: Norm,
    losses: Sequence[AttackLoss],
    length: Callable[[int, Radius], Radius],
    *,
    leave: bool = False,
) -> Tensor:
    """One run of projected steps up the gradient.

    Args:
        problem: images, labels, radius and model.
        x_adv: (B, ...) where it begins.
        norm: of the ball.
        losses: that of each step, raised at the labels and lowered at the targets.
        length: of a step, from its number (from 0) and the radius.
        leave: an image leaves the batch at the first step that finds it adversarial.

    Returns:
        (B, ...) where it ends.
    """
    result, rows = x_adv.clone(), torch.arange(len(x_adv), device=x_adv.device)
    for done, loss in enumerate(losses):
        labels, sign = problem.goal
        gradient, _, output = input_gradient(problem.model, x_adv, labels, loss)
        if leave and bool((found := succeeded(problem, x_adv, output.logits)).any()):
            result[rows[found]] = x_adv[found]
            problem, rows, x_adv, gradient = among(~found, problem, rows, x_adv, gradient)
            if not len(rows):
                return result
        stepped = x_adv + norm.step(sign * gradient, length(done, problem.eps), x_adv)
        x_adv = norm.project(stepped, problem.x, problem.eps)
    result[rows] = x_adv
    return result


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

    Raises:
        ValueError: fewer than one step or restart, restarts without a random start, or a step that is not positive.

    Under L1 it is SLIDE: a step moves the pixels of the steepest 1 % alike, leaves out those at their end, and is
    projected onto ball and box at once.

    Source: Madry et al., ICLR 2018; L1: Tramèr & Boneh, NeurIPS 2019, with the projection of Croce & Hein, ICML 2021.
    Deviation: with several restarts an adversarial image leaves the batch at that very
    step, as one that is misclassified does from the start; one run alone goes on to its last step for every image.

    >>> from protoat.threats import Linf
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
        check_whole(steps=steps, restarts=restarts)
        check_flag(random_start=random_start)
        if restarts > 1 and not random_start:
            raise UserError("restarts without a random start repeat the same run; write random_start=True")
        self.steps = steps
        self.step_size = step_length(step_size, 2.5 * threat.eps / steps)
        self.random_start = random_start
        self.restarts = restarts
        check_callable(loss=loss)
        self.loss = loss

    @property
    def gradient_steps(self) -> int | None:
        return self.steps if self.restarts == 1 else None

    def run(self, problem: Problem) -> Tensor:
        if self.restarts == 1:
            return self._ascend(problem)
        return worst_case(
            problem, self.threat.geometry, [lambda part, _: self._ascend(part, leave=True)] * self.restarts
        )

    def start(self, problem: Problem) -> Tensor:
        """Where one run begins: a random image of the ball, cut to [0, 1] as Madry et al. have it, or the image."""
        if not self.random_start:
            return problem.x
        return self.threat.geometry.random_start(problem.x, problem.eps, problem.generator)

    def _ascend(self, problem: Problem, *, leave: bool = False) -> Tensor:
        """One run, see `ascend`."""
        return ascend(
            problem,
            self.start(problem),
            self.threat.geometry,
            [self.loss] * self.steps,
            # A ramped or class-wise radius scales the step with it, so that the number of steps keeps its meaning.
            lambda _, eps: self.step_size * (eps / self.threat.eps),
            leave=leave,
        )


class FGSM(PGD):
    """Fast gradient sign method: one step of length eps from the image itself.

    Args:
        threat: norm and radius.
        loss: per-example loss to raise.
        bn: batch norm while attacking.

    Source: Goodfellow et al., ICLR 2015.

    >>> from protoat.threats import Linf
    >>> FGSM(Linf(0.3)).parameters()["steps"]
    1
    """

    def __init__(self, threat: ThreatModel, *, loss: AttackLoss = cross_entropy, bn: BatchNormMode = "eval") -> None:
        check_threat(threat, type(self))
        super().__init__(threat, steps=1, step_size=threat.eps, random_start=False, loss=loss, bn=bn)
