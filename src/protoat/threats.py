"""Threat models: what an adversary may do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from protoat.functional.norms import Norm, norm_of
from protoat.pixels import Pixels

NormName = Literal["linf", "l2", "l1"]


@dataclass(frozen=True, repr=False)
class ThreatModel:
    """What an adversary may do: move an image by at most ``eps`` in ``norm`` while pixels stay in [0, 1].

    Args:
        eps: radius, in the unit of the pixels. At most 1 under L-inf.
        norm: ``"linf"``, ``"l2"`` or ``"l1"``.

    Raises:
        ValueError: a radius outside the range, or an unknown norm.

    >>> ThreatModel("8/255"), ThreatModel(0.5, "l2")
    (Linf(8/255), L2(0.5))
    >>> ThreatModel(8)
    Traceback (most recent call last):
    protoat.errors.UserError: eps=8 is outside (0, 1]; pixels are in [0, 1], so write 8/255
    """

    eps: Pixels
    norm: NormName = "linf"

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", float(Pixels(self.eps)))
        self.geometry.check_radius(self.eps)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ThreatModel:
        """What `to_json` gave."""
        return cls(content["eps"], content["norm"])

    def to_json(self) -> dict[str, Any]:
        """Norm and radius."""
        return {"norm": self.norm, "eps": self.eps}

    @property
    def geometry(self) -> Norm:
        """The norm itself, which projects, steps and measures."""
        return norm_of(self.norm)

    def __repr__(self) -> str:
        levels = round(self.geometry.levels(self.eps) or 0)
        return f"{self.norm.capitalize()}({f'{levels}/255' if levels / 255 == self.eps else self.eps})"

    def __str__(self) -> str:
        """Norm and radius for people.

        >>> str(Linf("8/255")), str(L2(0.5))
        ('linf 0.03137 (8/255)', 'l2 0.5')
        """
        return f"{self.norm} {self.geometry.text(self.eps)}"


def check_threat(threat: Any, user: type) -> None:
    """Refuses what is no threat model, such as a radius alone.

    Args:
        threat: what `user`, a class of attacks or methods, was given.

    Raises:
        TypeError: no `ThreatModel`.
    """
    if not isinstance(threat, ThreatModel):
        shown = "what came" if isinstance(threat, nn.Module) else repr(threat)
        raise TypeError(
            f"{user.__name__} takes a threat model, and {shown} is of type {type(threat).__name__}; "
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


def L1(eps: float | str) -> ThreatModel:  # noqa: N802
    """The L1 ball of radius `eps`: how far all pixels may move together. On CIFAR-10 12 is usual.

    >>> L1(12)
    L1(12.0)
    """
    return ThreatModel(Pixels(eps), "l1")
