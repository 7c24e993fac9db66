"""AutoAttack, for any number of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from protoat.attacks.active import worst_case
from protoat.attacks.apgd import APGD, APGDT
from protoat.attacks.base import Attack
from protoat.attacks.ensemble import Ensemble, run_of
from protoat.attacks.fab import FAB, FABT
from protoat.attacks.problem import Problem
from protoat.attacks.square import Square
from protoat.functional.losses import margin
from protoat.functional.margins import dlr


class AutoAttack(Ensemble):
    """Four attacks without parameters to tune, one after the other, each on the images that are still robust.

    With ten classes or more this is AutoAttack's ``standard`` version. Its parts do not exist for few classes (DLR
    needs three logits, its targeted form four, and nine targets need ten classes), so fewer classes get a composition
    of their own, named ``aa-k2`` to ``aa-k9``; numbers from it are not comparable with standard ones. The number of
    classes is read from the logits.

    Args:
        threat: norm and radius.
        batch_size: images in one forward; each part gets full batches of active images, so the attack can be given
            many more images than that at once. `evaluate` queues those of the whole data.
        seed: repeats a call when no generator is passed.

    Attributes:
        num_classes: of the model attacked last, None before the first call; `parameters` describes that run.

    Raises:
        ValueError: an empty batch size; a model with fewer than two logits.

    Under L1 APGD-CE has 5 restarts and APGD-T 5 targets at most, as in the authors' code.

    Source: Croce & Hein, ICML 2020; L1: ICML 2021. Deviation: images leave each part as soon as they are adversarial.
    Fewer than ten classes: APGD-CE with 5 restarts; then APGD on the margin (2 classes) or on DLR (3), with 5 restarts,
    or APGD-T with all C - 1 targets; then FAB (2) or FAB-T with all C - 1 targets; then Square.

    >>> from protoat.threats import Linf
    >>> attack = AutoAttack(Linf("8/255"))
    >>> attack.version(10), list(attack.parts(10))
    ('standard', ['apgd-ce', 'apgd-t', 'fab-t', 'square'])
    >>> attack.version(2), list(attack.parts(2))
    ('aa-k2', ['apgd-ce', 'apgd-margin', 'fab', 'square'])
    """

    def version(self, num_classes: int) -> str:
        """Name of the composition for a number of classes."""
        return "standard" if num_classes >= 10 else f"aa-k{num_classes}"

    def _parts(self, num_classes: int) -> dict[str, Attack]:
        threat, wrong = self.threat, num_classes - 1
        sparse = threat.geometry.sparse
        parts: dict[str, Attack] = {"apgd-ce": APGD(threat, restarts=1 if num_classes >= 10 and not sparse else 5)}
        if num_classes == 2:
            parts["apgd-margin"] = APGD(threat, loss=margin, restarts=5)
        elif num_classes == 3:
            parts["apgd-dlr"] = APGD(threat, loss=dlr, restarts=5)
        else:
            parts["apgd-t"] = APGDT(threat, num_targets=min(wrong, 5 if sparse else 9))
        if num_classes == 2:
            parts["fab"] = FAB(threat)
        else:
            parts["fab-t"] = FABT(threat, num_targets=min(wrong, 9))
        parts["square"] = Square(threat, rescale_schedule=False)
        return parts

    @property
    def queue(self) -> Sequence[Attack]:
        return () if self.num_classes is None else tuple(self.parts(self.num_classes).values())

    @property
    def coarse_runs(self) -> bool:
        return True

    def run(self, problem: Problem) -> Tensor:
        with torch.no_grad():
            self.num_classes = problem.model(problem.x[: self.batch_size]).logits.shape[1]
        runs = [run_of(part) for part in self.parts(self.num_classes).values()]
        return worst_case(problem, self.threat.geometry, runs, batch_size=self.batch_size)

    def parameters(self) -> dict[str, Any]:
        """The version and every parameter of every part for the model attacked last; before, no parts."""
        version = {} if self.num_classes is None else {"version": self.version(self.num_classes)}
        return super().parameters() | version
