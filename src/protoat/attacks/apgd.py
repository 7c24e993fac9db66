"""Auto-PGD: PGD with momentum that halves its step by itself, untargeted and targeted."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from protoat.arguments import check_callable, check_number, check_whole
from protoat.attacks.active import gradient_run, is_coarse, select, succeeded, worst_case
from protoat.attacks.apgd_sparse import climb_sparse
from protoat.attacks.ascent import Ascent, Score, measure
from protoat.attacks.base import Attack
from protoat.attacks.mode import BatchNormMode
from protoat.attacks.problem import AttackLoss, Problem
from protoat.attacks.targets import ranked_prototypes, ranked_wrong_classes
from protoat.functional.losses import cross_entropy
from protoat.functional.margins import difference, dlr_targeted
from protoat.functional.norms import Norm
from protoat.threats import ThreatModel
from protoat.types import Output


def checkpoints(steps: int) -> list[int]:
    """Numbers of completed steps after which APGD may halve its step size.

    Source: Croce & Hein, ICML 2020, sec. 3.3: windows of 0.22 N steps, each 0.03 N shorter than the one before, down
    to 0.06 N.

    >>> checkpoints(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    window, shrink, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    points = []
    at = window
    while at <= steps:
        points.append(at)
        window = max(window - shrink, least)
        at += window
    return points


@dataclass
class _Climb(Ascent):
    """What halving the step needs to know beside: the last move, and how the loss went since the last checkpoint."""

    previous: Tensor
    loss: Tensor
    checked_loss: Tensor
    rises: Tensor
    halved: Tensor

    def observe(self, loss: Tensor, gradient: Tensor) -> None:
        self.rises += loss > self.loss
        self.loss = loss
        super().observe(loss, gradient)

    def checkpoint(self, window: int, rho: float) -> None:
        """Halves the step and goes back to the best point where progress has stopped."""
        stuck = self.rises <= rho * window
        stuck |= ~self.halved & (self.checked_loss >= self.best_loss)
        self.halved, self.checked_loss = stuck, self.best_loss
        self.step = torch.where(stuck, self.step / 2, self.step)
        self.back_to_best(stuck)
        self.rises = torch.zeros_like(self.rises)


def _climb(problem: Problem, aims: Tensor, score: Score, *, norm: Norm, steps: int, rho: float) -> Tensor:
    x_adv = norm.far_start(problem.x, problem.eps, problem.generator)
    result = x_adv.clone()
    loss, gradient, logits = measure(problem, x_adv, score, aims)
    rows, step, none = torch.arange(len(aims), device=aims.device), 0 * loss + 2 * problem.eps, torch.zeros_like(loss)
    at = _Climb(rows, x_adv, gradient, x_adv, gradient, loss, step, x_adv, loss, loss, none, none == 0)
    marks, last_mark = checkpoints(steps), 0
    for done in range(steps + 1):
        adversarial = succeeded(problem, at.x_adv, logits)
        if bool(adversarial.any()):
            result[at.rows[adversarial]] = at.x_adv[adversarial]
            problem, aims = select(problem, ~adversarial), aims[~adversarial]
            at.keep(~adversarial)
        if done == steps or not len(aims):
            break
        if done in marks:
            at.checkpoint(done - last_mark, rho)
            last_mark = done
        momentum = 0.25 if done else 0.0
        stepped = norm.project(at.x_adv + norm.step(at.gradient, at.step), problem.x, problem.eps)
        stepped = at.x_adv + (1 - momentum) * (stepped - at.x_adv) + momentum * (at.x_adv - at.previous)
        at.previous, at.x_adv = at.x_adv, norm.project(stepped, problem.x, problem.eps)
        coarse = is_coarse(problem)
        loss, gradient, logits = measure(problem, at.x_adv, score, aims)
        if coarse and not is_coarse(problem):  # the best so far was found by losses that are not to be compared with
            at.best_loss, at.best_gradient, _ = measure(problem, at.best, score, aims)
        at.observe(loss, gradient)
    result[at.rows] = at.best
    return result


class Climbing(Attack):
    """Base of attacks that take the steps of APGD.

    Args:
        threat, steps, restarts, rho, bn, seed: as in `APGD`.

    Raises:
        ValueError: fewer than one step or restart.
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        steps: int = 100,
        restarts: int = 1,
        rho: float = 0.75,
        bn: BatchNormMode = "eval",
        seed: int = 0,
    ) -> None:
        super().__init__(threat, bn=bn, seed=seed)
        check_whole(steps=steps, restarts=restarts)
        check_number("[0, 1]", rho=rho)
        self.steps = steps
        self.restarts = restarts
        self.rho = rho

    def climb(self, problem: Problem, aims: Tensor, score: Score) -> Tensor:
        """One run of APGD from a random start; an image leaves the batch once it is adversarial.

        Args:
            problem: images, labels, radius and model.
            aims: (B, ...) what `score` needs to know of each image beside its label.
            score: ``(output, labels, aims) -> (B,)``, to be raised.

        Returns:
            (B, ...) images: adversarial examples where found, else the points of highest score.
        """
        norm = self.threat.geometry
        if norm.sparse:
            return climb_sparse(problem, aims, score, norm=norm, steps=self.steps)
        with gradient_run(problem, self.steps):
            return _climb(problem, aims, score, norm=norm, steps=self.steps, rho=self.rho)

    def climb_restarted(self, problem: Problem, aims: Tensor, score: Score) -> Tensor:
        """`restarts` runs with one aim for each image, each on those that are still robust."""

        def once(part: Problem, rows: Tensor) -> Tensor:
            return self.climb(part, aims[rows], score)

        return worst_case(problem, self.threat.geometry, [once] * self.restarts)


class APGD(Climbing):
    """Auto-PGD: momentum, a step that starts at 2 eps and halves when progress stops, restarts from the best point.

    Args:
        threat: norm and radius.
        steps: gradient steps for each restart.
        restarts: independent runs, each on the images that are still robust.
        loss: per-example loss to raise: `cross_entropy` (APGD-CE), `dlr` (APGD-DLR, three classes or more) or `margin`;
            lowered at the targets when targeted.
        rho: the step halves unless the loss rose in more than this share of the steps since the last checkpoint. Not
            used under L1.
        bn: batch norm while attacking.
        seed: repeats a call when no generator is passed.

    Raises:
        ValueError: fewer than one step or restart.

    Under L1 it is APGD-L1, without momentum and `rho`: a step moves two thirds as many pixels as the perturbation has,
    and the first 60 of 100 steps are taken in balls of three and two times the radius.

    Source: Croce & Hein, ICML 2020, Alg. 1; L1: "Mind the box", ICML 2021, Alg. 1. Deviation: an adversarial image
    leaves the batch at once.

    >>> from protoat.functional.margins import dlr
    >>> from protoat.threats import Linf
    >>> APGD(Linf("8/255"), loss=dlr).parameters()["loss"]
    'protoat.functional.margins.dlr'
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        steps: int = 100,
        restarts: int = 1,
        loss: AttackLoss = cross_entropy,
        rho: float = 0.75,
        bn: BatchNormMode = "eval",
        seed: int = 0,
    ) -> None:
        super().__init__(threat, steps=steps, restarts=restarts, rho=rho, bn=bn, seed=seed)
        check_callable(loss=loss)
        self.loss = loss

    @property
    def coarse_runs(self) -> bool:
        return not self.threat.geometry.sparse

    def run(self, problem: Problem) -> Tensor:
        labels, sign = problem.goal

        def score(output: Output, _: Tensor, labels: Tensor) -> Tensor:
            return sign * self.loss(output, labels)

        return self.climb_restarted(problem, labels, score)


class APGDT(Climbing):
    """Targeted Auto-PGD: climbs the targeted DLR loss towards the likeliest wrong classes, one after the other.

    Args:
        threat: norm and radius.
        head: one with ``sub_logits``, such as `MultiPrototypeHead`, whose wrong prototypes are the targets in place of
            wrong classes: ``s_ck - z_y`` is climbed, of the scores that it gives the model's embedding. Copied.
        num_targets: wrong classes or prototypes tried, by falling clean logit; all where there are fewer.
        steps: gradient steps for each target and restart.
        restarts: independent runs for each target.
        rho: as in `APGD`.
        bn: batch norm while attacking.
        seed: repeats a call when no generator is passed.

    Raises:
        ValueError: fewer than one step, restart or target.

    Without targets an image counts as adversarial when it leaves its label, wherever it goes; with targets, only they
    are tried and must be reached.

    Source: Croce & Hein, ICML 2020. Deviation: with two or three classes the denominator of DLR-T does not exist, and
    ``z_t - z_y`` is climbed; the likeliest classes never include the label, also where the model is wrong.

    >>> from protoat.threats import Linf
    >>> APGDT(Linf("8/255")).parameters()["num_targets"]
    9
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        head: nn.Module | None = None,
        num_targets: int = 9,
        steps: int = 100,
        restarts: int = 1,
        rho: float = 0.75,
        bn: BatchNormMode = "eval",
        seed: int = 0,
    ) -> None:
        super().__init__(threat, steps=steps, restarts=restarts, rho=rho, bn=bn, seed=seed)
        check_whole(num_targets=num_targets)
        self.head = None if head is None else copy.deepcopy(head).requires_grad_(False)
        self.num_targets = num_targets

    @property
    def coarse_runs(self) -> bool:
        return not self.threat.geometry.sparse

    def ranked(self, problem: Problem) -> Tensor:
        """(B, T) the wrong classes to aim at, in the order in which they are tried."""
        with torch.no_grad():
            logits = problem.model(problem.x).logits
        return ranked_wrong_classes(logits, problem.y)[:, : self.num_targets]

    def towards(self, problem: Problem, aims: Tensor, score: Score | None = None) -> Tensor:
        """One run towards one class for each image, (B,), or towards what a score means by its aims."""
        return self.climb(problem, aims, score or _lead_of_target)

    def run(self, problem: Problem) -> Tensor:
        score, aims = self._classes(problem) if self.head is None else self._prototypes(problem)

        def once(rank: int, part: Problem, rows: Tensor) -> Tensor:
            return self.towards(part, aims[rows, rank], score)

        runs = [partial(once, rank) for rank in range(aims.shape[1]) for _ in range(self.restarts)]
        return worst_case(problem, self.threat.geometry, runs)

    def _classes(self, problem: Problem) -> tuple[Score, Tensor]:
        return _lead_of_target, self.ranked(problem) if problem.targets is None else problem.targets[:, None]

    def _prototypes(self, problem: Problem) -> tuple[Score, Tensor]:
        assert self.head is not None
        head: Any = self.head.to(problem.x.device)

        def score(output: Output, y: Tensor, aims: Tensor) -> Tensor:
            sub = head.sub_logits(output.embedding)
            reached = sub.flatten(1).gather(1, aims[:, None]).squeeze(1)
            return reached - sub.logsumexp(2).gather(1, y[:, None]).squeeze(1)

        with torch.no_grad():
            sub = head.sub_logits(problem.model(problem.x).embedding)
        return score, ranked_prototypes(sub, problem.y, problem.targets)[:, : self.num_targets]


def _lead_of_target(output: Output, y: Tensor, target: Tensor) -> Tensor:
    """Targeted DLR, or ``z_t - z_y`` where there are too few classes for it."""
    return (dlr_targeted if output.logits.shape[1] >= 4 else difference)(output, y, target)
