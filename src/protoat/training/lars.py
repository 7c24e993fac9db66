"""LARS, the optimizer of large-batch contrastive pre-training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

from protoat.arguments import check_number


class LARS(SGD):
    """SGD with momentum whose step for each tensor is scaled to the size of that tensor.

    The gradient with weight decay, ``g + wd * w``, is multiplied by ``trust * |w| / (|g| + wd * |w|)`` before momentum
    sees it; tensors whose weights or gradient are all zero keep a factor of 1.

    Args:
        params: parameters or groups.
        lr: learning rate; large (ACL 5.0 at batch 512), because the trust coefficient is small.
        momentum: of the scaled gradient.
        weight_decay: added to the gradient before scaling.
        trust: trust coefficient.

    Raises:
        ValueError: a trust coefficient that is not positive.

    Source: You, Gitman & Ginsburg 2017; constants as in ACL and RoCL (momentum 0.9, weight decay 1e-6, trust 0.001).
    Deviation: the momentum is of gradients, which the present rate then multiplies, as in torch's SGD and RoCL's code;
    the paper and ACL's code keep the rate inside the momentum, so a step under way does not change with the rate.

    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0])); w.grad = torch.tensor([0.0, 1.0])
    >>> LARS([w], lr=1.0, weight_decay=0.0, momentum=0.0, trust=0.1).step(); w.data
    tensor([3.0000, 3.5000])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 5.0,
        *,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust: float = 0.001,
    ) -> None:
        check_number("(0, inf)", "0.001 is usual", trust=trust)
        check_number("[0, inf)", lr=lr, momentum=momentum, weight_decay=weight_decay)
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.trust = trust

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; gradients are left as they were."""
        loss = closure() if closure is not None else None
        kept: list[tuple[Tensor, Tensor]] = []
        decays = [group["weight_decay"] for group in self.param_groups]
        with torch.no_grad():
            for group in self.param_groups:
                for weight in group["params"]:
                    if weight.grad is not None:
                        kept.append((weight, weight.grad))
                        weight.grad = self._scaled(weight, weight.grad, group["weight_decay"])
        try:
            for group in self.param_groups:
                group["weight_decay"] = 0.0
            super().step()
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay
            for weight, gradient in kept:
                weight.grad = gradient
        return loss

    def _scaled(self, weight: Tensor, gradient: Tensor, decay: float) -> Tensor:
        size, slope = weight.norm(), gradient.norm()
        local = self.trust * size / (slope + decay * size)
        return (gradient + decay * weight) * torch.where((size > 0) & (slope > 0), local, 1.0)
