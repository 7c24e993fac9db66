"""Robust contrastive learning."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from protoat.arguments import check_number, check_whole
from protoat.data.views import RandomView
from protoat.functional.forward import output_of
from protoat.pixels import Pixels
from protoat.pretraining.contrastive import Contrastive
from protoat.pretraining.projector import rocl_projector
from protoat.threats import ThreatModel
from protoat.types import Forwards


class RoCL(Contrastive):
    """Contrasts two views and an adversarial copy of the first, which is driven away from the second.

    ``NT({v1, v2, v_adv}) + NT({v_adv, v2}) / regularizer_scale``: one forward of 3 B images, one of 2 B.

    Args:
        threat: norm and radius of the instance-wise attack.
        steps: steps of the attack (7).
        step_size: length of a step in pixels; default ``2.5 * eps / steps`` (0.007 in the authors' code at 8/255).
        temperature: of NT-Xent (0.5).
        detach_keys: train each row as an anchor only, as the authors' code does.
        regularizer_scale: divides the second term (256).
        hidden, out: widths of the projector (2048, 128).
        view: see `Contrastive`.
        ramp_epochs: epochs over which the radius grows from 0.

    Raises:
        ValueError: fewer than one step, or a step or `regularizer_scale` that is not positive.

    Source: Kim, Tack & Hwang, NeurIPS 2020. Deviation: keys carry gradient by default, as in SimCLR.

    >>> from protoat.threats import Linf
    >>> RoCL(Linf("8/255")).steps
    7
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        steps: int = 7,
        step_size: Pixels | None = None,
        temperature: float = 0.5,
        detach_keys: bool = False,
        regularizer_scale: float = 256.0,
        hidden: int = 2048,
        out: int = 128,
        view: RandomView | None = None,
        ramp_epochs: float = 0.0,
    ) -> None:
        super().__init__(
            threat,
            steps=steps,
            step_size=step_size,
            temperature=temperature,
            detach_keys=detach_keys,
            view=view,
            ramp_epochs=ramp_epochs,
        )
        check_number("(0, inf)", "the authors use 256", regularizer_scale=regularizer_scale)
        check_whole(hidden=hidden, out=out)
        self.regularizer_scale = regularizer_scale
        self.hidden = hidden
        self.out = out

    def build_projector(self, embedding_dim: int) -> nn.Module:
        return rocl_projector(embedding_dim, hidden=self.hidden, out=self.out)

    def updates(self, model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Forwards]:
        (first, second), generator = self.two_views(x)
        x_adv = self.attack_views(model, first, second, generator)
        three = output_of(model, torch.cat([first, second, x_adv]))
        pair = output_of(model, torch.cat([x_adv, second]))
        yield Forwards(x_adv, adv=pair, clean=three)

    def attack_views(self, model: nn.Module, first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
        """`first`, moved so that the model sees it far from `second`."""
        partner = self.embed(model, second)
        return self.drive_apart(
            model, first, generator, lambda output: self.contrast(torch.cat([output.embedding, partner]), 2)
        )

    def loss(self, views: Forwards, y: Tensor) -> Tensor:
        assert views.clean is not None
        return self.contrast(views.clean.embedding, 3) + self.contrast(views.adv.embedding, 2) / self.regularizer_scale
