"""The base class of contrastive pre-training: two views, and an adversary that drives them apart."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from copy import copy
from typing import ClassVar

import torch
from torch import Tensor, nn

from protoat.arguments import check_flag, check_number
from protoat.attacks import PGD
from protoat.attacks.mode import attacking
from protoat.data.views import RandomView
from protoat.errors import UserError
from protoat.functional.contrastive import nt_xent
from protoat.functional.distributed import unwrap_model
from protoat.functional.forward import output_of
from protoat.methods import Method
from protoat.models.head import classifier_head
from protoat.pixels import Pixels
from protoat.threats import ThreatModel
from protoat.types import Output


class Contrastive(Method):
    """Contrastive pre-training as a training method: it never looks at the labels.

    ``fit(encoder, loader, Objective(method), ...)`` trains ``encoder = method.encoder(model)`` as any method does, and
    ``method.classifier(encoder)`` is what is fine-tuned. The projector learns with the encoder and is dropped
    afterwards. With several processes each contrasts its own share of a batch. A subclass writes `build_projector`,
    `updates` and `loss`.

    Args:
        threat: norm and radius of the instance-wise attack.
        steps: steps of the attack.
        step_size: length of a step in pixels; default ``2.5 * eps / steps``.
        temperature: of NT-Xent.
        detach_keys: see `protoat.functional.contrastive.nt_xent`.
        view: draws a random view of a batch; default `RandomView.for_colour` for images of three channels, otherwise
            `RandomView.for_digits`.
        ramp_epochs: epochs over which the radius grows from 0.
    """

    labelled: ClassVar[bool] = False

    def __init__(
        self,
        threat: ThreatModel,
        *,
        steps: int,
        step_size: Pixels | None = None,
        temperature: float = 0.5,
        detach_keys: bool = False,
        view: RandomView | None = None,
        ramp_epochs: float = 0.0,
    ) -> None:
        super().__init__(threat, ramp_epochs=ramp_epochs)
        check_number("(0, inf)", temperature=temperature)
        check_flag(detach_keys=detach_keys)
        self.projector: nn.Module | None = None
        self.temperature = temperature
        self.detach_keys = detach_keys
        self.view = view
        self.steps = steps
        self.step_size = step_size
        self.attack = PGD(threat, steps=steps, step_size=step_size)  # its loss is that of each batch

    @abstractmethod
    def build_projector(self, embedding_dim: int) -> nn.Module:
        """Maps (B, embedding_dim) to the (B, P) in which views are compared."""

    def encoder(self, model: nn.Module) -> nn.Module:
        """`model` in the form that this method trains; its head is frozen, because without labels nothing trains it."""
        classifier_head(model).requires_grad_(False)
        return model

    def classifier(self, encoder: nn.Module) -> nn.Module:
        """What `encoder` gave, after pre-training, as a plain network to fine-tune: every weight learns, head included.

        The head is as it was before pre-training, untrained.
        """
        return encoder.requires_grad_(True)

    def prepare(self, model: nn.Module) -> None:
        """Builds the projector for the width of `model`'s embedding (its ``embedding_dim``).

        Raises:
            ValueError: it has none.
        """
        width = getattr(model, "embedding_dim", None)
        if not isinstance(width, int):
            raise UserError(
                f"{type(model).__name__} does not say how wide its embedding is; "
                "wrap it: protoat.with_embedding(model, layer=..., example=images)"
            )
        if self.projector is None:
            self.projector = self.build_projector(width)

    @property
    def head(self) -> nn.Module:
        """The projector.

        Raises:
            RuntimeError: `prepare` has not been called.
        """
        if self.projector is None:
            raise RuntimeError(f"{type(self).__name__} has no projector yet; call prepare(model) before the optimizer")
        return self.projector

    def two_views(self, x: Tensor) -> tuple[Tensor, torch.Generator]:
        """(2, B, ...) views of a batch, and the generator to go on with."""
        generator = self.generator(x)
        view = self.view or (RandomView.for_colour() if x.shape[1] == 3 else RandomView.for_digits())
        return torch.stack([view(x, generator), view(x, generator)]), generator

    def contrast(self, embeddings: Tensor, groups: int) -> Tensor:
        """NT-Xent of ``(groups * B, D)`` embeddings, stacked group by group."""
        projections = self.head(embeddings)
        return nt_xent(
            projections.view(groups, -1, projections.shape[1]),
            temperature=self.temperature,
            detach_keys=self.detach_keys,
        )

    @staticmethod
    def embed(model: nn.Module, x: Tensor) -> Tensor:
        """Embeddings in eval mode, without gradient: what an image that does not move looks like to the attack."""
        network = unwrap_model(model)
        with attacking(network), torch.no_grad():
            return output_of(network, x).embedding

    def drive_apart(
        self, model: nn.Module, x: Tensor, generator: torch.Generator, loss: Callable[[Output], Tensor]
    ) -> Tensor:
        """Images near `x` that raise a contrastive loss of the model's output; model and projector in eval mode."""
        attack = copy(self.attack)
        attack.loss = lambda output, _: loss(output)
        nobody = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        with attacking(self.head):
            return attack.craft(model, x, nobody, eps=self.eps, generator=generator)
