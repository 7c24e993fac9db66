"""The model as an attack calls it: outputs checked, logits rescaled where gradients would vanish."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from protoat.attacks.precision import Passes, are_results_judged, in_bfloat16
from protoat.errors import UserError
from protoat.functional.forward import output_of
from protoat.functional.losses import STEEP
from protoat.functional.preserve import preserve_random_state
from protoat.types import Output

# Largest median change of the lead of the likeliest class in bfloat16, relative to the median lead.
_BLUR = 0.02
# Rescaled logits: the likeliest class of a middling image leads by this much, as in a network that is not saturated.
_LEAD = 10.0


def check_logits(logits: Tensor, images: int, num_classes: int | None = None) -> None:
    """Refuses what are no logits of classes.

    Args:
        logits: what a model returned.
        images: how many it was shown.
        num_classes: how many there should be; None takes any number from two.

    Raises:
        ValueError: no floats, not one row for each image, or not the classes.

    >>> check_logits(torch.zeros(2, 3), 2, 4)
    Traceback (most recent call last):
    protoat.errors.UserError: the model gives (2, 3) for 2 images, expected (2, 4): the data has 4 classes
    """
    if not logits.is_floating_point():
        raise UserError(f"the model returns {logits.dtype}, expected logits, scores of each class in floating point")
    if logits.dim() == 2 and len(logits) == images and logits.shape[1] == 1:
        raise UserError(
            "the model returns one logit for each image; return one for each class, of two torch.cat([-z, z], 1)"
        )
    wanted = "classes" if num_classes is None else num_classes
    if logits.dim() != 2 or len(logits) != images or num_classes not in (None, logits.shape[1]):
        data = "" if num_classes is None else f": the data has {num_classes} classes"
        count = "one image" if images == 1 else f"{images} images"
        raise UserError(f"the model gives {tuple(logits.shape)} for {count}, expected ({images}, {wanted}){data}")


def leads(logits: Tensor) -> Tensor:
    """(B,) by how much the likeliest class leads the next.

    >>> leads(torch.tensor([[1.0, 4.0, 2.0]]))
    tensor([2.])
    """
    first, second = logits.topk(2, dim=1).values.unbind(1)
    return first - second


class AttackedModel:
    """The model as an attack calls it; its first output shows whether labels and targets fit.

    * The network runs in the precision that `attacks_in` says. Where results are judged, it must resolve the logits.
    * Logits come in the precision of the images, so arithmetic follows these.
    * Logits of -inf, which rule classes out, come as a low number, which no loss turns into one that is no number.
    * Where a class leads by more than `STEEP`, softmax is saturated: all logits come divided by one number, which
      changes no class and lets cross-entropy and divergences have gradients again.
    * Every gradient comes back to its images through here, so here is where one that is no number is stopped: it would
      make an image of such numbers, which no model classifies, and so pass for a success.

    Attributes:
        gradients: of one image each, that came back.
        spoilt: how many of them were not finite.
        scale: what logits are divided by; 1 unless the model is saturated.
        floor: what takes the place of -inf; None where the first output had none.
    """

    def __init__(
        self, network: Callable[[Tensor], Any], y: Tensor, targets: Tensor | None, passes: Passes | None = None
    ) -> None:
        self.network = network
        self.passes = passes or Passes(None)
        self.gradients = 0
        self.spoilt: int | Tensor = 0
        self.scale = 1.0
        self.floor: float | None = None
        self._fresh = True
        self._resolves: bool | None = None
        self._unseen = {"labels": y} if targets is None else {"labels": y, "targets": targets}

    def __call__(self, images: Tensor) -> Output:
        if images.requires_grad:
            images.register_hook(self._finite)
            if self.passes.coarse and self.passes.exact_end and not self.resolves(images.detach()):
                self.passes.coarse = False
        return self._output(images, self.passes(images))

    def coarse(self, images: Tensor) -> Output:
        """The same of a forward in bfloat16, whatever the present precision: to tell what float32 need not look at."""
        return self._output(images, in_bfloat16(images))

    @torch.no_grad()
    def resolves(self, images: Tensor) -> bool:
        """Whether bfloat16 tells classes apart, judged once, by these images: not if logits are large and close."""
        if self._resolves is None:
            passes = []
            for context in (nullcontext(), in_bfloat16(images)):
                with preserve_random_state(images.device, 0):  # a model that draws draws the same
                    passes.append(self._output(images, context).logits)
            exact, coarse = passes
            best = exact.topk(2, dim=1).indices
            lead, coarse_lead = (logits.gather(1, best).diff(dim=1) for logits in (exact, coarse))
            self._resolves = bool((coarse_lead - lead).abs().median() <= _BLUR * lead.abs().median())
        return self._resolves

    def _output(self, images: Tensor, context: AbstractContextManager[object]) -> Output:
        with context:
            logits, embedding = output_of(self.network, images)
        check_logits(logits, len(images))
        logits = logits.to(images.dtype)
        if embedding.dtype == torch.bfloat16:
            embedding = embedding.to(images.dtype)
        if self._fresh:
            self._learn(logits.detach())
        if self.floor is not None:
            logits = logits.clamp_min(self.floor)
        return Output(logits if self.scale == 1 else logits / self.scale, embedding)

    @contextmanager
    def gradient_run(self, steps: int, exact: float) -> Iterator[None]:
        """Within it, passes are those of one run of so many gradient steps, see `Attack.coarse_runs`."""
        kept, self.passes = self.passes, Passes(steps if are_results_judged() else None, exact)
        try:
            yield
        finally:
            self.passes = kept

    @torch.no_grad()
    def _learn(self, logits: Tensor) -> None:
        self._fresh = False
        for name, values in self._unseen.items():
            low, high = (int(value) for value in torch.aminmax(values))
            if low < 0 or high >= logits.shape[1]:
                raise UserError(f"{name} run from {low} to {high}, and the model has {logits.shape[1]} classes, from 0")
        lead = leads(logits)
        if bool((lead > STEEP).any()):
            known = lead[lead.isfinite()]
            if len(known):
                self.scale = max(float(known.median()) / _LEAD, 1.0)
        if bool(logits.amin() == -torch.inf):
            known = logits[logits.isfinite()]
            lowest, highest = (float(value) for value in torch.aminmax(known)) if len(known) else (0.0, 0.0)
            self.floor = lowest - 10 * max(highest - lowest, 1.0)

    def _finite(self, gradient: Tensor) -> Tensor:
        finite = gradient.isfinite()
        self.gradients += len(gradient)
        self.spoilt = self.spoilt + (~finite.flatten(1).all(1)).sum()
        return torch.where(finite, gradient, 0.0)
