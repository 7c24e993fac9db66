"""The base class of training methods: a generator that yields once per optimizer step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoat.arguments import check_number
from protoat.attacks import Attack
from protoat.data import Origin
from protoat.errors import UserError
from protoat.functional.forward import output_of
from protoat.functional.precision import at_least_float32
from protoat.memory import Memory
from protoat.reprs import constructor_repr
from protoat.spelling import argument, setting
from protoat.threats import ThreatModel, check_threat
from protoat.types import Forwards, Output


class Method(Memory, ABC):
    """How adversarial examples enter training.

    What it learns itself (an auxiliary head, a second batch norm) are its submodules, which `prepare` builds; what it
    remembers from batch to batch are its buffers, which belong to one process of a distributed run.

    Args:
        threat: what the adversary may do.
        ramp_epochs: epochs over which the radius grows linearly from 0 to ``threat.eps``; 0 is full strength at once,
            None is the whole run. A loop without `Objective.epochs` is past every ramp and warm-up.

    Raises:
        TypeError: no threat model, such as a radius alone.
        ValueError: a negative ramp.

    Attributes:
        labelled: whether labels count; pre-training does without, so that its loader may give images alone.
        label_smoothing: share of the target that is spread evenly over all classes, in the cross-entropy that weights
            minimise and nowhere else; `Objective` sets it.
        weights: (B,) weight of each image of the present batch, for a method that needs the loss before its step, or
            None; `Objective` sets it.
    """

    labelled: ClassVar[bool] = True
    label_smoothing: float = 0.0
    weights: Tensor | None = None

    def __init__(self, threat: ThreatModel, *, ramp_epochs: float | None = 0.0) -> None:
        super().__init__()
        check_threat(threat, type(self))
        if ramp_epochs is not None:
            check_number("[0, inf)", "write 0 for full strength at once", ramp_epochs=ramp_epochs)
        self.threat = threat
        self.ramp_epochs = ramp_epochs
        self._epoch = math.inf
        self._epochs: float | None = None

    def __repr__(self) -> str:
        return constructor_repr(self, getattr(self, "attack", None))

    def check_classes(self, num_classes: int) -> None:
        """Refuses settings that do not fit this many classes; runs call it before they write anything."""

    @property
    def updates_per_batch(self) -> int:
        """Optimizer steps that `updates` asks for on each batch."""
        return 1

    def unreached(self, epochs: int) -> list[str]:
        """What never happens in a run of so many epochs, in words, and what to write instead; `fit` warns of it."""
        if self.ramp_epochs is None or self.ramp_epochs <= epochs:
            return []
        return [
            f"the radius ends at {epochs / self.ramp_epochs:.0%} of eps ({setting(ramp_epochs=self.ramp_epochs)}); "
            f"write {argument('ramp_epochs')} of at most {epochs}"
        ]

    @property
    def eps(self) -> float:
        """Present radius, after the ramp."""
        ramp = self._epochs if self.ramp_epochs is None else self.ramp_epochs
        return self.threat.eps * (min(1.0, self._epoch / ramp) if ramp else 1.0)

    def at_epoch(self, epoch: float, epochs: float | None = None) -> None:
        """Tells how far training is, in passes over the data (2.5 is the middle of the third), and of how many."""
        self._epoch, self._epochs = epoch, epochs

    @property
    def per_image(self) -> bool:
        """Whether it keeps something of each image, and so has to be told which images a batch holds."""
        return False

    def at_images(self, origin: Origin | None = None) -> None:
        """Tells which images the next batch holds; comes before each `updates` of a method that is `per_image`."""

    def prepare(self, model: nn.Module) -> None:
        """Builds what the method itself learns for this model; comes before the optimizer and before any loading."""

    def learner(self, model: nn.Module) -> nn.Module:
        """What `updates` forwards at present: the model, unless something learns in its place."""
        return model

    @abstractmethod
    def updates(self, model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Forwards]:
        """One yield for each optimizer step; the caller runs ``backward`` and ``step`` before the next.

        Args:
            model: images -> `Output` or logits.
            x: (B, ...) images in [0, 1].
            y: (B,) labels.
        """

    def loss(self, forwards: Forwards, y: Tensor) -> Tensor:
        """What the weights minimise: mean of `losses` over the batch."""
        if type(self).losses is Method.losses:  # the mean of its own kernel, to the last bit as it always was
            return self.cross_entropy(forwards, y)
        return self.losses(forwards, y).mean()

    def losses(self, forwards: Forwards, y: Tensor) -> Tensor:
        """The loss of each image, (B,): cross-entropy on the adversarial view."""
        return self.cross_entropy(forwards, y, "none")

    def other_loss(self, forwards: Forwards, y: Tensor) -> Tensor | float:
        """What `loss` holds beside the mean of `losses`: that of images which are not of the batch."""
        return 0.0

    def weighted_loss(self, losses: Tensor, weights: Tensor, forwards: Forwards, y: Tensor) -> Tensor:
        """`loss` where each image has a weight, from what `losses` gave and weights (B,)."""
        return (weights * losses).mean() + self.other_loss(forwards, y)

    @property
    def weighs_images(self) -> bool:
        """Whether the images of its loss can be weighed: a `loss` of one's own needs `losses` of one's own."""
        loss, losses = (next(k for k in type(self).__mro__ if name in vars(k)) for name in ("loss", "losses"))
        return issubclass(losses, loss)

    def cross_entropy(self, forwards: Forwards, y: Tensor, reduction: Literal["mean", "none"] = "mean") -> Tensor:
        """Cross-entropy on the adversarial view."""
        return F.cross_entropy(
            at_least_float32(forwards.adv.logits), y, reduction=reduction, label_smoothing=self.label_smoothing
        )

    @property
    def may_stop(self) -> bool:
        """Whether `end_epoch` may ask to roll back, for which a loop keeps a copy of all state."""
        return type(self).end_epoch is not Method.end_epoch

    def end_epoch(self, model: nn.Module) -> str | None:
        """Called after each pass over the data. A text is a reason to stop and roll back this pass."""
        return None

    @staticmethod
    def generator(x: Tensor) -> torch.Generator:
        """Randomness for one batch, seeded from the global state as every other part of training is."""
        return torch.Generator(x.device).manual_seed(int(torch.randint(2**62, ()).item()))


def never_starts(what: str, start: float, epochs: int) -> str:
    """In words, what a start at or past the end of the run leaves undone."""
    return f"{what} ({setting(start_epoch=start)}); write {argument('start_epoch')} of at most {epochs - 1}"


class Examples(NamedTuple):
    """The images of one optimizer step.

    Attributes:
        x: (B, ...) clean images.
        x_adv: (B, ...) the images trained on.
        y: (B,) labels.
        more: further images of the same step, such as augmented views or an auxiliary batch.
    """

    x: Tensor
    x_adv: Tensor
    y: Tensor
    more: tuple[Examples, ...] = ()


def clean_of(forwards: Forwards, method: str) -> Output:
    """The forward of the clean images, which the loss of a method needs."""
    if forwards.clean is None:
        raise UserError(f"the loss of {method} needs the forward of the clean images (Forwards.clean)")
    return forwards.clean


def clean_and_adversarial(model: nn.Module, examples: Examples) -> Forwards:
    """One forward of the clean images, then one of the adversarial ones: batch norm sees two batches, not a mixture.

    Such a model must be wrapped by ``DistributedDataParallel(..., broadcast_buffers=False)``, as `protoat.fit` does.
    """
    clean = output_of(model, examples.x)
    return Forwards(examples.x_adv, output_of(model, examples.x_adv), clean)


class OneStep(Method):
    """A method with one optimizer step for each batch, in two pieces: make the examples, then forward them.

    They are apart so that `AWP` can move the weights in between; a subclass writes `examples`, and `forward` when it
    needs more than the adversarial images.
    """

    @abstractmethod
    def examples(self, model: nn.Module, x: Tensor, y: Tensor) -> Examples:
        """The images of this step; called once for each batch."""

    def forward(self, model: nn.Module, examples: Examples) -> Forwards:
        """The forwards that `loss` needs, in the mode of training; must not change the method's state."""
        return Forwards(examples.x_adv, output_of(model, examples.x_adv))

    def ascent_forward(self, model: nn.Module, examples: Examples) -> Forwards:
        """The forwards from which `AWP` takes the direction of its weights; `forward` unless less will do."""
        return self.forward(model, examples)

    def observe(self, forwards: Forwards, y: Tensor) -> None:
        """Takes note of the forwards at the model's own weights; called once for each batch."""

    def updates(self, model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Forwards]:
        forwards = self.forward(model, self.examples(model, x, y))
        self.observe(forwards, y)
        yield forwards


class AdversarialTraining(OneStep):
    """Trains on the examples of one attack: attack the batch, forward the result, one step.

    Args:
        attack: any attack; its threat model is the method's.
        ramp_epochs: epochs over which the radius grows from 0.

    Raises:
        ValueError: not an attack; recipes and command lines cannot give one.

    Source: Madry et al., ICLR 2018.
    """

    def __init__(self, attack: Attack, *, ramp_epochs: float = 0.0) -> None:
        if not isinstance(attack, Attack):
            raise UserError(
                f"{type(self).__name__} takes an attack, which only a program can give; in a recipe write PGDAT"
            )
        super().__init__(attack.threat, ramp_epochs=ramp_epochs)
        self.attack = attack

    def examples(self, model: nn.Module, x: Tensor, y: Tensor) -> Examples:
        return Examples(x, self.attack.craft(model, x, y, eps=self.eps, generator=self.generator(x)), y)
