"""Target classes of targeted attacks, drawn from the wrong classes."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from protoat.arguments import check_choice, check_kind
from protoat.attacks.active import worst_case
from protoat.attacks.base import Attack
from protoat.attacks.problem import Problem
from protoat.errors import UserError
from protoat.types import Output

#: Which wrong class is the target of an image; see `draw_targets`.
TargetRule = Literal["least_likely", "next", "random", "all"]


def ranked_wrong_classes(logits: Tensor, y: Tensor) -> Tensor:
    """The classes other than the label by falling logit, shape (B, C - 1).

    Args:
        logits: (B, C) scores of the clean images.
        y: (B,) labels.

    >>> ranked_wrong_classes(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor([[2, 1]])
    """
    order = logits.argsort(dim=1, descending=True, stable=True)
    return order[order != y[:, None]].view(len(y), -1)


def ranked_prototypes(sub: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    """The prototypes of wrong classes, or of the target class, by falling score, as ``class * K + place``.

    Args:
        sub: (B, C, K) scores of the prototypes for the clean images; minus infinity at places not in use.
        y: (B,) labels.
        targets: (B,) classes to reach, or None.

    Returns:
        (B, T), T the largest number of such prototypes; the first again in rows that have fewer.

    >>> ranked_prototypes(torch.tensor([[[1.0, -torch.inf], [2.0, 3.0], [0.0, -1.0]]]), torch.tensor([2]))
    tensor([[3, 2, 0]])
    """
    classes = torch.arange(sub.shape[1], device=sub.device)
    ruled_out = classes == y[:, None] if targets is None else classes != targets[:, None]
    scores, order = (
        sub.masked_fill(ruled_out[:, :, None], -torch.inf).flatten(1).sort(dim=1, descending=True, stable=True)
    )
    none = scores.isneginf()
    return torch.where(none, order[:, :1], order)[:, : int((~none).sum(1).max())]


def draw_targets(
    rule: Literal["least_likely", "next", "random"], logits: Tensor, y: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """One wrong class for each image, shape (B,).

    Args:
        rule: ``"least_likely"`` is the wrong class of smallest logit, ``"next"`` is ``(y + 1) mod C``, ``"random"`` is
            uniform over the C - 1 wrong classes.
        logits: (B, C) scores of the clean images.
        y: (B,) labels.
        generator: randomness of ``"random"``.

    Source: least likely, Kurakin et al. 2017. With two classes all rules give the same class.

    >>> draw_targets("next", torch.zeros(2, 3), torch.tensor([0, 2]))
    tensor([1, 0])
    """
    classes = logits.shape[1]
    if rule == "least_likely":
        return ranked_wrong_classes(logits, y)[:, -1]
    if rule == "next":
        return (y + 1) % classes
    return (y + torch.randint(1, classes, y.shape, generator=generator, device=y.device)) % classes


class Targeted(Attack):
    """Runs a targeted attack towards classes chosen by a rule; the accuracy on the true labels is reported.

    Args:
        attack: any attack with a targeted form; its threat model is used.
        rule: as in `draw_targets`, or ``"all"``: each wrong class in turn, likeliest first, on the images that are
            still robust, so that an image counts as robust only if every target fails.

    Raises:
        ValueError: an unknown rule, or an attack that has no targeted form.

    To count how often a target is reached, pass ``targets=draw_targets(...)`` to the attack itself.

    >>> from protoat.attacks import PGD
    >>> from protoat.threats import Linf
    >>> Targeted(PGD(Linf("8/255")), "all").parameters()["rule"]
    'all'
    """

    can_target: ClassVar[bool] = False

    def __init__(self, attack: Attack, rule: TargetRule) -> None:
        check_kind(Attack, attack=attack)
        super().__init__(attack.threat, bn=attack.bn, seed=attack.seed)
        check_choice(TargetRule, rule=rule)
        if not attack.can_target:
            raise UserError(f"{type(attack).__name__} has no targeted form, so no targets can be given to it")
        self.attack = attack
        self.rule = rule

    @property
    def follows_gradients(self) -> bool:
        return self.attack.follows_gradients

    def check(self, images: tuple[int, ...], output: Output) -> None:
        self.attack.check(images, output)

    def run(self, problem: Problem) -> Tensor:
        with torch.no_grad():
            logits = problem.model(problem.x).logits
        if self.rule != "all":
            targets = draw_targets(self.rule, logits, problem.y, problem.generator)
            return self.attack.run(problem._replace(targets=targets))
        classes = ranked_wrong_classes(logits, problem.y)

        def towards(rank: int, part: Problem, rows: Tensor) -> Tensor:
            return self.attack.run(part._replace(targets=classes[rows, rank]))

        return worst_case(problem, self.threat.geometry, [partial(towards, rank) for rank in range(classes.shape[1])])

    def parameters(self) -> dict[str, Any]:
        return {"attack": "Targeted", "rule": self.rule, "of": self.attack.parameters()}
