"""What the checks of an audit share: model, images, and a cache of attacks already run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from protoat.attacks import PGD, Attack, Transfer
from protoat.attacks.examination import Examination
from protoat.data import ImageData
from protoat.errors import UserError
from protoat.evaluation.attack_names import attack_of_name
from protoat.evaluation.micro_batches import MicroBatched
from protoat.evaluation.order import measured
from protoat.evaluation.record import Evaluation
from protoat.evaluation.robustness import evaluate
from protoat.functional.forward import device_of
from protoat.threats import ThreatModel

_FEW = 250


class Surrogate(NamedTuple):
    """Another model, whose adversarial images are shown to the one that is examined.

    Attributes:
        name: what reports call it.
        model: images in [0, 1] -> `Output` or logits, with the same classes.
        undefended: it was trained without any defence, so an attack that works must break it.
    """

    name: str
    model: nn.Module
    undefended: bool = False


class Crafted(NamedTuple):
    """Adversarial images, (N, ...), and what the attack said of them: which the model still gets right, (N,) bool."""

    x_adv: Tensor
    correct: Tensor


@dataclass(eq=False)
class AuditContext:
    """A model, some of its test images, and everything that was found out about them so far.

    Args:
        model: images in [0, 1] -> `Output` or logits.
        whole: test images.
        threat: norm and radius.
        examination: what a look at the model shows, before any check.
        images: how many of the images are used, a share of each mode; the most expensive attacks see the first 250.
        batch_size: images attacked at once.
        adaptive: attacks that know the defence, by name.
        surrogates: other models to transfer from.
        record: an ``evaluation.json`` of this very model, data and threat model.
        training: parameters of the attack that the model was trained against.
        advance: called with the name of each attack before it runs.

    Raises:
        ValueError: no images.
    """

    model: nn.Module
    whole: ImageData
    threat: ThreatModel
    examination: Examination
    images: int
    batch_size: int
    adaptive: Mapping[str, Attack]
    surrogates: Sequence[Surrogate]
    record: Evaluation | None
    training: Mapping[str, Any] | None
    advance: Callable[[str], None]

    def __post_init__(self) -> None:
        numbers = (len(self.whole), self.images, self.batch_size)
        if min(numbers) < 1:
            raise UserError("{} images, of which {}, {} at once: each must be at least 1".format(*numbers))
        self.indices = measured(self.whole, self.images)
        self.data = self.whole.subset(self.indices.to(self.whole.labels.device))
        self.network = MicroBatched(self.model)
        self.few = measured(self.data, _FEW)
        self._known: dict[tuple[str, bool], Tensor] = {}

    def __len__(self) -> int:
        return len(self.data)

    @cached_property
    def x(self) -> Tensor:
        """(N, C, H, W) images in [0, 1], where the model is."""
        return self.data.pixels(device=self.device)

    @cached_property
    def y(self) -> Tensor:
        """(N,) labels, where the model is."""
        return self.data.labels.to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return device_of(self.network)

    @property
    def recorded(self) -> Evaluation:
        """The record, for checks that are made only where there is one."""
        assert self.record is not None
        return self.record

    @property
    def differentiable(self) -> bool:
        """Whether gradients come back to the images at all."""
        return self.examination.differentiable

    @property
    def anywhere(self) -> float:
        """The radius from which every image of the box can be reached."""
        return self.threat.geometry.across(self.data.images[0].numel())

    def correct_under(self, name: str, attack: Attack | None = None, *, few: bool = False) -> Tensor:
        """Images that stay right under an attack, (N,) or, of the first few, (M,) bool on the CPU.

        Args:
            name: as on the command line, such as ``pgd20@0.1``, or of the `attack` that is given.
            attack: where the name alone does not say it.
            few: the first images only.
        """
        if few and (name, False) in self._known:
            return self._known[name, False][self.few]
        if (name, few) not in self._known:
            rows = self.few if few else torch.arange(len(self))
            self._known[name, few] = self.among(rows, name, attack)
        return self._known[name, few]

    def among(self, rows: Tensor, name: str, attack: Attack | None = None) -> Tensor:
        """Robust images among `rows`, (M,) int64, under an attack, (M,) bool; never cached."""
        self.advance(name)
        attack = attack_of_name(name, self.threat) if attack is None else attack
        part = self.data.subset(rows.to(self.data.labels.device))
        return evaluate(self.model, part, {name: attack}, batch_size=self.batch_size)[name].correct_mask

    def white_box(self, *, few: bool = False) -> Tensor:
        """Robust images under all gradient attacks; with `few`, under a longer one as well."""
        names = ["pgd20", "pgd100", "apgd-t20", *(["apgd-t"] if few else [])]
        if self.threat.geometry.sparse:  # which pixels sparse steps move hangs on the start
            names.append("apgd-ce50x5")
        return torch.stack([self.correct_under(name, few=few) for name in names]).all(0)

    def transferred(self, surrogate: Surrogate) -> tuple[str, Tensor]:
        """Name and outcome of adversarial images made on another model."""
        name = f"transfer:{surrogate.name}"
        return name, self.correct_under(
            name, Transfer(PGD(self.threat, steps=50), surrogate.model, name=surrogate.name)
        )

    @cached_property
    def reported(self) -> tuple[Tensor, Tensor] | None:
        """Which images the record knows, (N,) bool, and which of them it counts as right in the worst case, (N,)."""
        if self.record is None or self.record.worst_case is None:
            return None
        outcomes = self.record.worst_case.correct_mask
        right = torch.full((len(self.whole),), -1, dtype=torch.int8)
        right[measured(self.whole, len(outcomes))] = outcomes.to(torch.int8)
        return right[self.indices] >= 0, right[self.indices] == 1

    @cached_property
    def crafted(self) -> Crafted:
        """The images of a PGD-20 of its own, for those who want to see them."""
        self.advance("pgd20")
        attack = PGD(self.threat, steps=20)
        results = [
            attack.judged(self.network, attack.perturb(self.network, *batch), batch[1]) for batch in self.batches()
        ]
        return Crafted(torch.cat([r.x_adv for r in results]), torch.cat([r.correct for r in results]))

    @cached_property
    def moved(self) -> Tensor:
        """How far the crafted images lie from the clean ones, (N,)."""
        return self.threat.geometry.distance(self.crafted.x_adv, self.x)

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """Images in [0, 1] and labels, batch by batch."""
        return list(zip(self.x.split(self.batch_size), self.y.split(self.batch_size), strict=True))
