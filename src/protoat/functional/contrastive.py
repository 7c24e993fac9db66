"""NT-Xent, the contrastive loss of SimCLR, in the forms that ACL and RoCL train with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from protoat.errors import UserError
from protoat.functional.precision import at_least_float32


def nt_xent(groups: Tensor, *, temperature: float = 0.5, detach_keys: bool = False) -> Tensor:
    """Normalised temperature-scaled cross-entropy between views of the same images.

    Every row is an anchor; its positives are the same image in each other group, its negatives all remaining rows. The
    loss is the sum over positives, averaged over the G*B anchors.

    Args:
        groups: (G, B, D) projections; ``groups[:, i]`` are the G views of image i, G >= 2.
        temperature: divides the cosines.
        detach_keys: gradient flows through the anchor only (RoCL's code); the value does not change.

    Raises:
        ValueError: fewer than two views, or a temperature that is not positive.

    Source: Chen et al., ICML 2020 (SimCLR); Jiang et al., NeurIPS 2020 (ACL: two groups, full gradient); Kim et al.,
    NeurIPS 2020 (RoCL: two or three groups, detached keys). Deviation: a logsumexp in place of RoCL's ratio with 1e-8
    in numerator and denominator; values agree to about 1e-7.

    >>> x = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0], [2.0, -1.0, 0.5], [-1.0, -1.0, 2.0]])
    >>> nt_xent(x.view(2, 2, 3))
    tensor(1.6386)
    """
    if groups.dim() != 3 or len(groups) < 2:
        raise UserError(f"projections have shape {tuple(groups.shape)}, expected (G, B, D) with G >= 2 views")
    if temperature <= 0:
        raise UserError(f"temperature={temperature:g} must be positive")
    count, batch, _ = groups.shape
    with torch.autocast(groups.device.type, enabled=False):
        rows = F.normalize(at_least_float32(groups.flatten(0, 1)), dim=1, eps=1e-8)
        similarity = rows @ (rows.detach() if detach_keys else rows).T / temperature
        own = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        log_denominator = similarity.masked_fill(own, float("-inf")).logsumexp(1)
        blocks = similarity.view(count, batch, count, batch).diagonal(dim1=1, dim2=3)  # (G, G, B): the same image
        positives = blocks.sum() - blocks.diagonal().sum()
        return ((count - 1) * log_denominator.sum() - positives) / len(rows)
