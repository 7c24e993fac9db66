"""Triplet Loss Adversarial training as a regularizer."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from protoat.arguments import check_choice, check_flag, check_number, check_whole
from protoat.errors import UserError
from protoat.functional.distributed import unwrap_model
from protoat.functional.forward import output_of
from protoat.functional.precision import at_least_float32
from protoat.functional.preserve import preserve_modes
from protoat.functional.triplet import hardest_negative, other_of_class, triplet_hinge
from protoat.regularizers.base import Regularizer
from protoat.spelling import argument, setting
from protoat.types import Forwards

Triplets = Literal["both", "A_Ap_B", "A1_Ap_B"]


class TLA(Regularizer):
    """Triplets of an adversarial anchor, a clean positive and the hardest clean negative.

    With A' the adversarial example of image A, A1 another image of its class, and B the clean image of another class
    that is nearest to A' in eval-mode features::

        term = T(A', A, B; margin_same_image) + T(A', A1, B; margin) + match_l2 * mean ||g(A') - g(A)||^2
        T(a, p, n; m) = mean max(0, d(a, p) - d(a, n) + m) + norm_reg * mean(a^2 + p^2 + n^2),    d = 1 - cos

    Forwards beside the method's own: one in train mode for each of A (unless the method has made it), A1 and B,
    separately and not concatenated, as the reference does, so that each has its own batch statistics and moves the
    running ones; and one in eval mode without gradient of A' and the pool, which chooses B. Several forwards before one
    backward need ``DistributedDataParallel(..., broadcast_buffers=False)``, as in `protoat.fit`. `forward`, which has
    no model, forms its triplets within the embeddings it gets.

    Args:
        num_classes, embedding_dim: without effect; accepted so that every regularizer is built alike.
        margin: margin of A1_Ap_B (reference: MNIST 0.05, CIFAR 0.03, Tiny ImageNet 0.02).
        margin_same_image: margin of A_Ap_B; default `margin` (reference: 0.6 for Tiny ImageNet, which is 30 times the
            other).
        triplets: ``"both"``, or one kind by its name in the reference (MNIST uses A1_Ap_B alone).
        norm_reg: weight of the embedding norms inside each T (reference: 1e-3; MNIST 1e-4).
        match_l2: weight of the squared distance between A' and A (reference: 0; Tiny ImageNet 0.5, see Deviation).
        mul_num: the negative is chosen from this many batches, the present one and those before it (reference: 10 on
            CIFAR with a wide net; its author advises easier negatives, so 1, for smaller ones).
        absolute_cosine: ``d = 1 - |cos|`` as in the reference; the same on non-negative embeddings.

    Raises:
        ValueError: an argument out of range; in use, a pool that holds one class only.

    Source: Mao et al., NeurIPS 2019, and their code, where the weight of T is 0.5 (MNIST, Tiny ImageNet) or 2 (CIFAR):
    the objective's `weight`. Deviation: `match_l2` stands inside the term and so is multiplied by that weight. The
    positive A carries no added noise. A1 is drawn from the pool and differs from A where the pool has another image of
    its class. The pool is made of recent batches and not drawn anew, and same-class candidates get -inf, not 0. The
    cosine is not made absolute.

    >>> y = torch.tensor([0, 0, 1, 1])
    >>> float(TLA(2, 2, norm_reg=0.0)(torch.eye(2)[y], y))
    0.0
    """

    per_process: ClassVar[tuple[str, ...]] = ("pool_x", "pool_y")
    memory: ClassVar[tuple[str, ...]] = per_process
    pool_x: Tensor | None
    pool_y: Tensor | None

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        margin: float = 0.03,
        margin_same_image: float | None = None,
        triplets: Triplets = "both",
        norm_reg: float = 1e-3,
        match_l2: float = 0.0,
        mul_num: int = 1,
        absolute_cosine: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes, self.embedding_dim = num_classes, embedding_dim
        apart = margin if margin_same_image is None else margin_same_image
        check_number("[0, inf)", margin=margin, margin_same_image=apart, norm_reg=norm_reg, match_l2=match_l2)
        check_whole(1, "1 mines within the batch", mul_num=mul_num)
        check_flag(absolute_cosine=absolute_cosine)
        self.margin = margin
        self.margin_same_image = apart
        check_choice(Triplets, triplets=triplets)
        if match_l2 and triplets == "A1_Ap_B":
            raise UserError(
                f"{argument('match_l2')} compares A' with A, which {setting(triplets=triplets)} leaves out; "
                f"write {setting(triplets='both')}"
            )
        self.triplets = triplets
        self.norm_reg = norm_reg
        self.match_l2 = match_l2
        self.mul_num = mul_num
        self.absolute_cosine = absolute_cosine

    def forward(self, embedding: Tensor, y: Tensor) -> Tensor:
        """The A1_Ap_B triplet alone, with positives and negatives taken from the same (B, D) embeddings."""
        positive = embedding[other_of_class(y, y, torch.arange(len(y), device=y.device))]
        negative = embedding[hardest_negative(embedding, embedding, y, y)]
        return self._triplet(embedding, positive, negative, self.margin)

    def term(self, model: nn.Module, x: Tensor, y: Tensor, forwards: Forwards) -> Tensor:
        pool_x, pool_y = self._pool(x.detach(), y)
        anchor = forwards.adv.embedding
        negative_x = pool_x[self._mine(model, forwards.x_adv.detach(), y, pool_x, pool_y)]
        negative = output_of(model, negative_x).embedding
        term = anchor.new_zeros((), dtype=torch.float32)
        if self.triplets != "A1_Ap_B":
            clean = (output_of(model, x.detach()) if forwards.clean is None else forwards.clean).embedding
            term = term + self._triplet(anchor, clean, negative, self.margin_same_image)
            if self.match_l2:
                apart = at_least_float32(anchor) - at_least_float32(clean)
                term = term + self.match_l2 * apart.square().sum(1).mean()
        if self.triplets != "A_Ap_B":
            itself = torch.arange(len(pool_y) - len(y), len(pool_y), device=y.device)
            other = output_of(model, pool_x[other_of_class(y, pool_y, itself)]).embedding
            term = term + self._triplet(anchor, other, negative, self.margin)
        return term

    def _triplet(self, anchor: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
        a, p, n = (at_least_float32(embedding).square() for embedding in (anchor, positive, negative))
        hinge = triplet_hinge(anchor, positive, negative, margin=margin, absolute=self.absolute_cosine)
        return hinge + self.norm_reg * (a + p + n).mean()

    @torch.no_grad()
    def _mine(self, model: nn.Module, x_adv: Tensor, y: Tensor, pool_x: Tensor, pool_y: Tensor) -> Tensor:
        """Index in the pool of each image's negative; eval mode lets the features be computed in parts."""
        network = unwrap_model(model)
        with preserve_modes(network):
            network.eval()
            parts = torch.cat([x_adv, pool_x]).split(len(x_adv))
            features = torch.cat([output_of(network, part).embedding for part in parts])
        return hardest_negative(features[: len(y)], features[len(y) :], y, pool_y)

    def _pool(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The clean images to choose from; the present batch stands last. A replay of a batch is kept once."""
        if self.mul_num == 1:
            return x, y
        if self.pool_x is None or self.pool_y is None:
            self.pool_x, self.pool_y = x.clone(), y.clone()
        elif not torch.equal(self.pool_x[-len(x) :], x):
            # A short batch must not shrink what earlier ones filled.
            keep = max(self.mul_num * len(x), len(self.pool_x))
            self.pool_x = torch.cat([self.pool_x, x])[-keep:]
            self.pool_y = torch.cat([self.pool_y, y])[-keep:]
        return self.pool_x, self.pool_y
