"""Runs attacks on the images that are not yet adversarial."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from protoat.attacks.attacked_model import AttackedModel
from protoat.attacks.precision import EXACT
from protoat.attacks.problem import Problem
from protoat.functional.forward import predicted
from protoat.functional.norms import Norm
from protoat.types import Output

Run = Callable[[Problem, Tensor], Tensor]


def select(problem: Problem, rows: Tensor) -> Problem:
    """The problem of some of the images; `rows` is a mask or indices."""
    return problem._replace(
        x=problem.x[rows],
        y=problem.y[rows],
        targets=None if problem.targets is None else problem.targets[rows],
        eps=problem.eps[rows] if isinstance(problem.eps, Tensor) else problem.eps,
    )


def among(mask: Tensor, problem: Problem, *values: Tensor) -> tuple[Any, ...]:
    """The problem of some of the images, and their rows of tensors with one for each image."""
    return select(problem, mask), *(value[mask] for value in values)


class Rows:
    """Base of dataclasses whose fields have one row for each image that is still attacked."""

    def keep(self, mask: Tensor) -> None:
        """Goes on with some of the images."""
        for field in fields(self):  # type: ignore[arg-type] # a subclass is a dataclass
            setattr(self, field.name, getattr(self, field.name)[mask])


def is_adversarial(problem: Problem, logits: Tensor) -> Tensor:
    """(B,) bool: the label was left or, where the problem has targets, the target was reached."""
    classes = predicted(logits)
    return classes != problem.y if problem.targets is None else classes == problem.targets


def gradient_run(problem: Problem, steps: int, *, exact: float = EXACT) -> AbstractContextManager[None]:
    """One run of so many gradient steps: passes are in the precision that was asked for, a share at the end exact."""
    model = problem.model
    return model.gradient_run(steps, exact) if isinstance(model, AttackedModel) else nullcontext()


def is_coarse(problem: Problem) -> bool:
    """Whether the last gradient was taken in bfloat16."""
    return isinstance(problem.model, AttackedModel) and problem.model.passes.last_coarse


def succeeded(problem: Problem, x_adv: Tensor, logits: Tensor) -> Tensor:
    """`is_adversarial` of the pass of a gradient; what bfloat16 takes for a success, a float32 forward confirms."""
    found = is_adversarial(problem, logits)
    if is_coarse(problem) and bool(found.any()):
        with torch.no_grad():
            exact = problem.model(x_adv[found]).logits
        found[found.clone()] = is_adversarial(select(problem, found), exact)
    return found


def attempts(
    problem: Problem, norm: Norm, run: Run, rows: Tensor, size: int
) -> Iterator[tuple[Tensor, Problem, Tensor, Output]]:
    """Attacks some images of a batch, `size` at once; yields their rows, their problem, images in the ball, outputs."""
    for part in rows.split(size) if len(rows) else ():
        piece = select(problem, part)
        with torch.enable_grad():
            x_adv = run(piece, part)
        x_adv = norm.project(x_adv.detach(), piece.x, piece.eps)
        yield part, piece, x_adv, problem.model(x_adv)


@torch.no_grad()
def worst_case(problem: Problem, norm: Norm, runs: Sequence[Run], *, batch_size: int | None = None) -> Tensor:
    """Runs each attack on the images that no earlier one made adversarial: the worst case of all.

    Args:
        problem: images, labels, radius and model.
        norm: the ball that results are projected into before they are judged.
        runs: each takes the problem of the active images and their rows in the batch, and returns images.
        batch_size: images in one forward; each run gets full batches of active images. All at once by default.

    Returns:
        (B, ...) images: the first adversarial one of each, the last tried where there is none, the clean one where the
        model is wrong already.
    """
    size = batch_size or max(len(problem.x), 1)
    worst = problem.x.clone()
    rows = torch.arange(len(worst), device=worst.device)
    active = torch.cat(
        [part[~is_adversarial(select(problem, part), problem.model(worst[part]).logits)] for part in rows.split(size)]
    )
    for run in runs:
        left = []
        for part, piece, x_adv, output in attempts(problem, norm, run, active, size):
            worst[part] = x_adv
            left.append(part[~is_adversarial(piece, output.logits)])
        active = torch.cat(left) if left else active
    return worst
