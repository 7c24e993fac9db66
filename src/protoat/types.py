"""Outputs of models and terms of losses: the values that the packages exchange."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils import _pytree as pytree

from protoat.errors import UserError


class Output(NamedTuple):
    """What a model returns.

    Attributes:
        logits: (B, C) class scores of the deployed head, not probabilities.
        embedding: (B, D) features just before the head; (B, 0) where a plain module returned logits only.
    """

    logits: Tensor
    embedding: Tensor


# `torch.export.save` stores a model's outputs by this name.
pytree._register_namedtuple(Output, serialized_type_name="protoat.types.Output")


def as_output(result: Any) -> Output:
    """Lets a plain module stand where a model that returns `Output` is expected.

    Args:
        result: what a model returned: `Output`, logits (B, C), an object with an attribute ``logits``, as the models of
            transformers give, or a mapping with a key ``logits``. Of all but the first the embedding is empty, (B, 0).

    Raises:
        ValueError: none of these.

    >>> import torch
    >>> as_output(torch.zeros(2, 10)).embedding.shape
    torch.Size([2, 0])
    """
    if isinstance(result, Output):
        return result
    inner = result.get("logits") if isinstance(result, Mapping) else getattr(result, "logits", None)
    logits = result if isinstance(result, Tensor) else inner
    if not isinstance(logits, Tensor):
        keys = f" with the keys {', '.join(map(str, result)) or 'none'}" if isinstance(result, Mapping) else ""
        raise UserError(
            f"the model returned a {type(result).__name__}{keys}, expected logits, an object or a mapping that has "
            "them as logits, or protoat.Output"
        )
    return Output(logits, logits.new_empty(logits.shape[0], 0))


class Forwards(NamedTuple):
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
    more: tuple[tuple[Forwards, Tensor], ...] = ()


class LossTerms(NamedTuple):
    """The weighted terms of one step; their sum is what is minimised (paper, Eq. 5).

    Attributes:
        base: of the method.
        metric, norm: of the regularizer.
        mode: of the modes, see `Modes`.
    """

    base: Tensor
    metric: Tensor | None = None
    norm: Tensor | None = None
    mode: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """Sum of the terms that are present."""
        return sum((term for term in self[1:] if term is not None), start=self.base)

    def named(self) -> dict[str, Tensor]:
        """Detached scalars by name, with the total, for logs."""
        terms = {name: term.detach() for name, term in self._asdict().items() if term is not None}
        return terms | {"total": self.total.detach()}
