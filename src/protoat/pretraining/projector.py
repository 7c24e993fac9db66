"""Projection heads for contrastive pre-training."""

from __future__ import annotations

from torch import nn


def acl_projector(embedding_dim: int, *, width: int | None = None) -> nn.Sequential:
    """Three linear layers with batch norm, as in ACL: (B, D) -> (B, width).

    Args:
        embedding_dim: D.
        width: of every layer; default D.

    Source: Jiang et al., NeurIPS 2020: 512-512-512, a bias in the first layer only.

    >>> import torch
    >>> acl_projector(16)(torch.rand(4, 16)).shape
    torch.Size([4, 16])
    """
    width = width or embedding_dim
    return nn.Sequential(
        nn.Linear(embedding_dim, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, width, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, width, bias=False),
        nn.BatchNorm1d(width),
    )


def rocl_projector(embedding_dim: int, *, hidden: int = 2048, out: int = 128) -> nn.Sequential:
    """Two linear layers without batch norm, as in RoCL: (B, D) -> (B, out).

    Args:
        embedding_dim: D.
        hidden, out: widths of the layers.

    Source: Kim et al., NeurIPS 2020: 512-2048-128.

    >>> import torch
    >>> rocl_projector(16)(torch.rand(4, 16)).shape
    torch.Size([4, 128])
    """
    return nn.Sequential(nn.Linear(embedding_dim, hidden), nn.ReLU(), nn.Linear(hidden, out))
