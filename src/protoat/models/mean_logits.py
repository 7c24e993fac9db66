"""The mean logits of a randomised model (expectation over transformation)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from protoat.arguments import check_whole
from protoat.functional.forward import output_of
from protoat.types import Output


class MeanLogits(nn.Module):
    """Mean logits and embedding of a random model over several forwards, so that gradients are mean ones too (EOT).

    Each gradient of a model that draws random numbers is that of another function, which misleads an attack that steps
    along it. Give this to attacks and to `protoat.evaluate` in the place of the model, which is so both attacked and
    judged by its mean.

    Args:
        model: images -> `Output` or logits, random in eval mode too; kept, not copied.
        draws: forwards in each mean, with random numbers of their own; time and memory grow with them.

    Raises:
        ValueError: fewer than one draw.

    Source: expectation over transformation, Athalye et al., ICML 2018; 20 draws as in AutoAttack's version ``rand``.
    Deviation: the loss of the mean is climbed, where AutoAttack climbs the mean of the losses.

    >>> class Noisy(nn.Module):
    ...     def forward(self, x):
    ...         return x.flatten(1) + torch.randn(len(x), 4)
    >>> x = torch.zeros(100, 1, 2, 2)
    >>> float(Noisy()(x).std()) > 0.9, float(MeanLogits(Noisy(), draws=25)(x).logits.std()) < 0.3
    (True, True)
    """

    def __init__(self, model: nn.Module, draws: int = 20) -> None:
        super().__init__()
        check_whole(draws=draws)
        self.model = model
        self.draws = draws

    @property
    def mean_of_draws(self) -> int:
        """How many draws its logits are the mean of, for those who find that they vary."""
        return self.draws

    def forward(self, x: Tensor) -> Output:
        outputs = [output_of(self.model, x) for _ in range(self.draws)]
        return Output(*(torch.stack(parts).mean(0) for parts in zip(*outputs, strict=True)))
