"""Divergences between two predictions for the same image, and their cross-entropies.

Every function takes logits (B, C), computes in at least float32 and, like the losses of attacks, returns shape (B,).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from protoat.functional.precision import at_least_float32


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """``KL(softmax(p) || softmax(q))``, shape (B,); gradients flow into both.

    Args:
        p: (B, C) logits of the reference prediction, the clean one in TRADES.
        q: (B, C) logits of the other.

    Source: Zhang et al., ICML 2019.

    >>> kl_divergence(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 2.0]]))
    tensor([0.4621])
    """
    log_p, log_q = F.log_softmax(at_least_float32(p), 1), F.log_softmax(at_least_float32(q), 1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def jensen_shannon(*logits: Tensor, floor: float = 1e-7) -> Tensor:
    """Mean divergence of several predictions from their mixture, shape (B,); 0 where all agree.

    Args:
        logits: two or more (B, C); one alone gives 0.
        floor: the mixture's probabilities are kept at or above this.

    Source: Addepalli et al., NeurIPS 2022 (DAJAT), after AugMix.

    >>> jensen_shannon(torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]]))
    tensor([0.6931])
    """
    log_ps = torch.stack([F.log_softmax(at_least_float32(one), 1) for one in logits])
    ps = log_ps.exp()
    log_mixture = ps.mean(0).clamp(floor, 1).log()
    return (ps * (log_ps - log_mixture)).sum(2).mean(0)


def boosted_cross_entropy(logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy plus a term that lowers the strongest wrong class, shape (B,).

    ``-log p_y - log(1.0001 - max_{j != y} p_j + 1e-12)``

    Args:
        logits: (B, C) of the adversarial images.
        y: (B,) labels.
        label_smoothing: share of the target that is spread evenly over all classes, in the cross-entropy alone.

    Source: Wang et al., ICLR 2020 (MART), Eq. 5; the constants are those of the authors' code.

    >>> boosted_cross_entropy(torch.tensor([[1.0, 1.0]]), torch.tensor([0]))
    tensor([1.3861])
    """
    logits = at_least_float32(logits)
    rival = logits.softmax(1).scatter(1, y[:, None], -1.0).amax(1)
    own = F.cross_entropy(logits, y, reduction="none", label_smoothing=label_smoothing)
    return own - (1.0001 - rival + 1e-12).log()


def misclassification_kl(clean: Tensor, adv: Tensor, y: Tensor) -> Tensor:
    """Divergence of the adversarial from the clean prediction, weighted by how wrong the clean one is, shape (B,).

    ``KL(p_clean || p_adv + 1e-12) * (1.0000001 - p_clean[y])``; gradients flow into every factor.

    Args:
        clean, adv: (B, C) logits.
        y: (B,) labels.

    Source: Wang et al., ICLR 2020 (MART), Eq. 7; the constants are those of the authors' code.

    >>> misclassification_kl(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 2.0]]), torch.tensor([0]))
    tensor([0.1243])
    """
    log_clean = F.log_softmax(at_least_float32(clean), 1)
    log_adv = (at_least_float32(adv).softmax(1) + 1e-12).log()
    divergence = (log_clean.exp() * (log_clean - log_adv)).sum(1)
    own = log_clean.gather(1, y[:, None]).squeeze(1).exp()
    return divergence * (1.0000001 - own)


def uniform_cross_entropy(logits: Tensor) -> Tensor:
    """Cross-entropy with the uniform distribution as target, shape (B,); least where the model is undecided.

    >>> uniform_cross_entropy(torch.zeros(1, 2))
    tensor([0.6931])
    """
    return -F.log_softmax(at_least_float32(logits), 1).mean(1)
