"""The projection between embeddings and learned prototypes, and the base class of regularizers that have one."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from protoat.errors import UserError
from protoat.functional.distributed import joint_sum, processes
from protoat.functional.preserve import preserve_modes
from protoat.regularizers.base import Regularizer
from protoat.spelling import argument, setting

Kind = Literal["batchnorm", "linear+batchnorm", "mlp"]
_KINDS = ("batchnorm", "linear+batchnorm", "mlp")


class Projection(nn.Sequential):
    """Embeddings (B, D) as prototypes see them, (B, D); the last step standardises each entry, without affine weights.

    The embeddings of one class point in almost one direction, so that one prototype is nearest to most of them;
    standardised ones point in all directions. See docs/methods.md.

    Args:
        kind: ``"batchnorm"``; ``"linear+batchnorm"``, behind a linear layer; ``"mlp"``, two linear layers with batch
            norm, the first followed by a ReLU; None hands embeddings on as they are.
        embedding_dim: D.

    Raises:
        ValueError: an unknown kind; in use, embeddings of another size, or a single image in train mode.

    Source: standardised features in front of prototypes as in Chen & He, CVPR 2021 (SimSiam), whose projector ends in
    batch norm without affine weights.

    >>> projection = Projection("batchnorm", 2)
    >>> projection(torch.tensor([[1.0, 5.0], [3.0, 5.0]])).round() + 0.0
    tensor([[-1.,  0.],
            [ 1.,  0.]])
    """

    def __init__(self, kind: Kind | None, embedding_dim: int) -> None:
        if kind is not None and kind not in _KINDS:
            raise UserError(
                f"{setting(projection=kind)} is unknown; write {', '.join(map(repr, _KINDS))} or none (None)"
            )
        D = embedding_dim
        layers: list[nn.Module] = []
        if kind == "linear+batchnorm":
            layers = [nn.Linear(D, D, bias=False)]
        elif kind == "mlp":
            layers = [nn.Linear(D, D, bias=False), _JointBatchNorm(D), nn.ReLU(), nn.Linear(D, D, bias=False)]
        if kind is not None:
            layers.append(_JointBatchNorm(D, affine=False))
        super().__init__(*layers)
        self.kind = kind
        self.embedding_dim = D

    def forward(self, embedding: Tensor) -> Tensor:
        if embedding.dim() != 2 or embedding.shape[1] != self.embedding_dim:
            raise UserError(
                f"embeddings have shape {tuple(embedding.shape)}, expected (B, {self.embedding_dim}), "
                "the size the prototypes were built for"
            )
        if not len(self) or not len(embedding):
            return embedding
        if self.training and len(embedding) * processes() == 1:
            raise UserError(
                f"{setting(projection=self.kind)} standardises over a batch, and one image has no variance; "
                f"leave the last batch out (drop_last=True), take another {argument('batch_size')}, "
                f"or write {setting(projection=None)}"
            )
        with torch.autocast(embedding.device.type, enabled=False):
            return super().forward(embedding.to(next(self.buffers()).dtype))


class _JointBatchNorm(nn.BatchNorm1d):
    """Batch norm whose statistics in train mode are those of the batches of all processes together."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or processes() == 1:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        count = joint_sum(x.new_tensor(len(x)))
        mean = joint_sum(x.sum(0)) / count
        variance = joint_sum((x - mean).square().sum(0)) / count
        with torch.no_grad():
            share = self.momentum or 0.1
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * count / (count - 1), share)
        standardised = (x - mean) * (variance + self.eps).rsqrt()
        return standardised if self.weight is None else standardised * self.weight + self.bias


class ProxyRegularizer(Regularizer):
    """A metric term with learned prototypes, which see embeddings through a projection that is its own.

    In train mode the projection takes the statistics of the batch and moves its running ones; `similarity` of a
    subclass, figures and attacks take the running ones, whatever the mode, and move nothing.

    Attributes:
        projection: what `project` is.
        project: a `Projection`.
    """

    def __init__(self, embedding_dim: int, projection: Kind | None) -> None:
        super().__init__()
        self.projection = projection
        self.project = Projection(projection, embedding_dim)

    @abstractmethod
    def of_projected(self, embedding: Tensor, y: Tensor) -> Tensor:
        """Unweighted scalar term of projected embeddings (B, D) with labels (B,)."""

    def forward(self, embedding: Tensor, y: Tensor) -> Tensor:
        return self.of_projected(self.project(embedding), y)

    def of_both(self, adversarial: Tensor, clean: Tensor, y: Tensor) -> Tensor:
        """Each half has its own batch statistics, as it has in the network."""
        return self.of_projected(torch.cat([self.project(adversarial), self.project(clean)]), torch.cat([y, y]))

    def projected(self, embedding: Tensor) -> Tensor:
        """Embeddings (B, D) as prototypes see them in evaluation: by running statistics, which stay as they are."""
        with preserve_modes(self.project):
            return self.project.eval()(embedding)

    def with_own_rate(self) -> list[nn.Parameter]:
        layers = {id(parameter) for parameter in self.project.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in layers]
