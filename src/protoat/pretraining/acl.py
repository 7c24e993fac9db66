"""Adversarial contrastive learning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from protoat.arguments import check_choice, check_whole
from protoat.data.views import RandomView
from protoat.functional.contrastive import nt_xent
from protoat.functional.forward import output_of
from protoat.models.dual_bn import Branch, DualBatchNorm, batch_norm_branch, dual_batch_norm, keep_branch
from protoat.pixels import Pixels
from protoat.pretraining.contrastive import Contrastive
from protoat.pretraining.projector import acl_projector
from protoat.threats import ThreatModel
from protoat.types import Forwards, Output

ContrastMode = Literal["S2S", "A2A", "A2S", "DS"]


class ACL(Contrastive):
    """Contrasts two views of each image, clean and attacked, with one set of batch norms for each.

    The model must come from `encoder`, which doubles its batch norm: clean images pass through its ``clean`` branch,
    attacked ones through ``adv``.

    Args:
        threat: norm and radius of the instance-wise attack.
        mode: the pair that is contrasted. S2S: two clean views. A2A: both attacked. A2S: the first attacked, the second
            clean. DS (dual stream, what ACL's code trains): the mean of S2S and A2A.
        steps: steps of the attack (5).
        step_size: length of a step in pixels; default ``2.5 * eps / steps`` (2/255 in the authors' code).
        temperature: of NT-Xent (0.5).
        width: of the projector's layers; default the embedding's.
        view: see `Contrastive`.
        ramp_epochs: epochs over which the radius grows from 0.

    Attributes:
        branch: whose batch norm a classifier keeps: that of attacked images, where the mode has some.

    Raises:
        ValueError: an unknown mode; when used, a model without two batch-norm branches.

    Source: Jiang, Chen, Chen & Wang, NeurIPS 2020. A2A and A2S follow the paper's figure; its code trains DS only.
    Deviation: the random start of the attack is cut to [0, 1], in the authors' code only what each step gives.

    >>> from protoat.threats import Linf
    >>> ACL(Linf("8/255")).mode
    'DS'
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        mode: ContrastMode = "DS",
        steps: int = 5,
        step_size: Pixels | None = None,
        temperature: float = 0.5,
        width: int | None = None,
        view: RandomView | None = None,
        ramp_epochs: float = 0.0,
    ) -> None:
        super().__init__(
            threat, steps=steps, step_size=step_size, temperature=temperature, view=view, ramp_epochs=ramp_epochs
        )
        check_choice(ContrastMode, mode=mode)
        if width is not None:
            check_whole(width=width)
        self.mode = mode
        self.width = width
        self.branch: Branch = "clean" if mode == "S2S" else "adv"

    def encoder(self, model: nn.Module) -> nn.Module:
        """A copy of `model` with two branches of batch norm; one that the mode never uses does not learn."""
        dual = super().encoder(dual_batch_norm(model))
        unused = {"S2S": "adv", "A2A": "clean"}.get(self.mode)
        for layer in dual.modules():
            if unused and isinstance(layer, DualBatchNorm):
                layer.get_submodule(unused).requires_grad_(False)
        return dual

    def classifier(self, encoder: nn.Module) -> nn.Module:
        """A copy of `encoder` with the batch norm of attacked images (S2S: clean ones), to fine-tune as a whole."""
        return super().classifier(keep_branch(encoder, self.branch))

    def build_projector(self, embedding_dim: int) -> nn.Module:
        return dual_batch_norm(acl_projector(embedding_dim, width=self.width))

    def updates(self, model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Forwards]:
        views, generator = self.two_views(x)
        both = views.flatten(0, 1)
        clean = self._forward(model, both, "clean") if self.mode in ("S2S", "DS") else None
        if self.mode == "S2S":
            assert clean is not None
            yield Forwards(both, adv=clean)
        elif self.mode == "A2S":
            x_adv = self.attack_first(model, views[0], views[1], generator)
            yield Forwards(x_adv, adv=self._forward(model, x_adv, "adv"), clean=self._forward(model, views[1], "clean"))
        else:
            x_adv = self.attack_both(model, both, generator)
            yield Forwards(x_adv, adv=self._forward(model, x_adv, "adv"), clean=clean)

    def attack_both(self, model: nn.Module, both: Tensor, generator: torch.Generator) -> Tensor:
        """Both views of each image (2 B, ...), driven apart as the adversarial branch sees them."""

        def apart(output: Output) -> Tensor:
            return self._contrast_in("adv", output.embedding)

        with batch_norm_branch(model, "adv"):
            return self.drive_apart(model, both, generator, apart)

    def attack_first(self, model: nn.Module, first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
        """The first view of each image, driven away from the second, which stays clean and in the clean branch."""
        with batch_norm_branch(model, "clean"):
            partner = self.embed(model, second)

        def apart(output: Output) -> Tensor:
            return self._contrast_across(output.embedding, partner)

        with batch_norm_branch(model, "adv"):
            return self.drive_apart(model, first, generator, apart)

    def loss(self, views: Forwards, y: Tensor) -> Tensor:
        if self.mode == "S2S":
            return self._contrast_in("clean", views.adv.embedding)
        if self.mode == "A2A":
            return self._contrast_in("adv", views.adv.embedding)
        assert views.clean is not None
        if self.mode == "A2S":
            return self._contrast_across(views.adv.embedding, views.clean.embedding)
        attacked = self._contrast_in("adv", views.adv.embedding)
        return 0.5 * attacked + 0.5 * self._contrast_in("clean", views.clean.embedding)

    @staticmethod
    def _forward(model: nn.Module, x: Tensor, branch: Branch) -> Output:
        with batch_norm_branch(model, branch):
            return output_of(model, x)

    def _contrast_in(self, branch: Branch, embeddings: Tensor) -> Tensor:
        with batch_norm_branch(self.head, branch):
            return self.contrast(embeddings, 2)

    def _contrast_across(self, attacked: Tensor, clean: Tensor) -> Tensor:
        """Contrast of projections that passed through different branches."""
        with batch_norm_branch(self.head, "adv"):
            first = self.head(attacked)
        with batch_norm_branch(self.head, "clean"):
            second = self.head(clean)
        return nt_xent(torch.stack([first, second]), temperature=self.temperature)
