"""The values that every part of protoat passes to the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor

from protoat.pixels import Pixels

__all__ = ["L2", "Linf", "LossTerms", "Norm", "Output", "Pixels", "ThreatModel", "Views", "as_output", "check_threat"]

Norm = Literal["linf", "l2"]


class Output(NamedTuple):
    """What a model returns.

    Attributes:
        logits: (B, C) class scores of the deployed head, not probabilities.
        embedding: (B, D) features just before the head; (B, 0) where a plain module returned logits only.
    """

    logits: Tensor
    embedding: Tensor


def as_output(result: Any) -> Output:
    """Lets a plain module stand where a model that returns `Output` is expected.

    Args:
        result: what a model returned: `Output`, logits (B, C), or an object with an attribute ``logits``, as the models
            of transformers give. Of the last two the embedding is empty, (B, 0).

    Raises:
        ValueError: none of these.

    >>> import torch
    >>> as_output(torch.zeros(2, 10)).embedding.shape
    torch.Size([2, 0])
    """
    if isinstance(result, Output):
        return result
    logits = result if isinstance(result, Tensor) else getattr(result, "logits", None)
    if not isinstance(logits, Tensor):
        raise ValueError(  # noqa: TRY004 - it says what a model has to return, whatever came
            f"the model returned a {type(result).__name__}, expected logits, an object that has them, or protoat.Output"
        )
    return Output(logits, logits.new_empty(len(logits), 0))


class Views(NamedTuple):
    """The forwards of one optimizer step.

    Attributes:
        x_adv: (B, ...) images the step trains on, in [0, 1] (the clean ones under `Standard`).
        adv: output for `x_adv`.
        clean: output for the clean images, where the method computes it.
        more: forwards of further images of the same step (augmented views, an auxiliary batch), each with labels (B,).
    """

    x_adv: Tensor
    adv: Output
    clean: Output | None = None
    more: tuple[tuple[Views, Tensor], ...] = ()


class LossTerms(NamedTuple):
    """The weighted terms of one step; their sum is what is minimised (paper, Eq. 5)."""

    base: Tensor
    metric: Tensor | None = None
    norm: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """Sum of the terms that are present."""
        return sum((term for term in self[1:] if term is not None), start=self.base)

    def named(self) -> dict[str, Tensor]:
        """Detached scalars by name, with the total, for logs."""
        terms = {name: term.detach() for name, term in self._asdict().items() if term is not None}
        return terms | {"total": self.total.detach()}


@dataclass(frozen=True)
class ThreatModel:
    """What an adversary may do: move an image by at most ``eps`` in ``norm`` while pixels stay in [0, 1].

    Args:
        eps: radius, in the unit of the pixels. At most 1 under L-inf.
        norm: ``"linf"`` or ``"l2"``.

    Raises:
        ValueError: a radius outside the range, or an unknown norm.

    >>> ThreatModel(8)
    Traceback (most recent call last):
    ValueError: eps=8 is outside (0, 1]; pixels are in [0, 1], so write 8/255
    """

    eps: Pixels
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", float(Pixels(self.eps)))
        if self.norm not in ("linf", "l2"):
            raise ValueError(f"norm={self.norm!r} is unknown; write 'linf' or 'l2'")
        if self.norm == "linf" and not 0 < self.eps <= 1:
            hint = f"; pixels are in [0, 1], so write {self.eps:g}/255" if self.eps > 1 else ""
            raise ValueError(f"eps={self.eps:g} is outside (0, 1]{hint}")
        if self.norm == "l2" and not 0 < self.eps < float("inf"):
            raise ValueError(f"eps={self.eps:g} is not a positive L2 radius")


def check_threat(threat: Any, user: type) -> None:
    """Refuses what is no threat model, such as a radius alone.

    Args:
        threat: what `user`, a class of attacks or methods, was given.

    Raises:
        TypeError: no `ThreatModel`.
    """
    if not isinstance(threat, ThreatModel):
        raise TypeError(
            f"{user.__name__} takes a threat model, and {threat!r} is of type {type(threat).__name__}; "
            "write protoat.Linf(8/255) or protoat.L2(0.5)"
        )


def Linf(eps: float | str) -> ThreatModel:  # noqa: N802 - the field's name for the ball
    """The L-inf ball of radius `eps` in (0, 1].

    >>> Linf("8/255") == ThreatModel(8 / 255, "linf")
    True
    """
    return ThreatModel(Pixels(eps), "linf")


def L2(eps: float | str) -> ThreatModel:  # noqa: N802
    """The L2 ball of radius `eps`, in pixels.

    >>> L2(0.5).norm
    'l2'
    """
    return ThreatModel(Pixels(eps), "l2")
