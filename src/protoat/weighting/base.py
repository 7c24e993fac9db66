"""The base class of weightings: group probabilities that follow the groups' losses, and a weight per image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from protoat.errors import UserError
from protoat.functional.distributed import sum_over_processes
from protoat.functional.group_weights import group_means, group_probabilities, image_weights
from protoat.memory import Memory
from protoat.reprs import constructor_repr


class Weighting(Memory, ABC):
    """Weighs each image's loss by ``q_g / share_g``: the probability of its group over that group's share of the data.

    So the loss is the mean of the groups' own mean losses under q, and the mean weight is 1. The logarithm of q grows
    with each batch by what a subclass says in `growth`; it is state, and the same in all processes, which add up what
    they see.

    How many images each group has is told by `count`: by `protoat.fit` where the loader knows its labels, and by modes.
    Without it the images seen so far are counted.

    Attributes:
        mixing: share of the uniform distribution in q.
        log_weights: (G,) log of q before mixing, up to a constant: their mean over groups with images is 0.
    """

    memory: ClassVar[tuple[str, ...]] = ("log_weights", "sizes", "seen")
    log_weights: Tensor | None
    sizes: Tensor | None
    seen: Tensor | None
    mixing: float = 0.0

    def __repr__(self) -> str:
        return constructor_repr(self)

    @abstractmethod
    def signal(self, losses: Tensor, wrong: Tensor) -> Tensor:
        """(B,): what of each image speaks for its group; see `weights`."""

    @abstractmethod
    def growth(self, means: Tensor, sizes: Tensor, images: int) -> Tensor:
        """(G,): by how much the log weights grow.

        Args:
            means: (G,) estimated mean signal of each group.
            sizes: (G,) images of each group in the data.
            images: of the batch, over all processes.
        """

    def unreached(self, epochs: int) -> list[str]:
        """What never happens in so many epochs, of which each replay is one, and what to write; `fit` warns of it."""
        return []

    def count(self, groups: Tensor, number: int) -> None:
        """Counts the groups of all training images, before training or where they have changed.

        A group keeps its weight; one that had no images begins with the geometric mean of those that had.

        Args:
            groups: (N,) group of each training image, in [0, `number`).
            number: groups in all.
        """
        sizes = torch.bincount(groups, minlength=number)
        if self.sizes is not None and torch.equal(self.sizes.to(sizes.device), sizes):
            return
        self.sizes, self.seen = sizes, None
        old = torch.zeros(0, device=groups.device) if self.log_weights is None else self.log_weights
        self.log_weights = _centred(_longer(old.to(groups.device), number), self.sizes)

    def weights(self, groups: Tensor, losses: Tensor, wrong: Tensor, number: int) -> Tensor:
        """Learns from a batch, and weighs its images, (B,).

        Args:
            groups: (B,) group of each image, in [0, `number`).
            losses: (B,) of the method, without gradient.
            wrong: (B,) bool, whether the image trained on is misclassified.
            number: groups in all.

        Raises:
            ValueError: an image of a group of which `count` found none.
        """
        here = torch.bincount(groups, minlength=number)
        images = sum_over_processes(here)
        if self.sizes is None:
            self.seen = images if self.seen is None else _longer(self.seen, number).to(images.device) + images
        sizes = self._known_sizes(number, groups.device)
        if bool((here.to(sizes) > 0)[sizes == 0].any()):
            raise UserError("a batch has images of a group that had none when groups were counted; call count again")
        old = self.log_weights
        old = losses.new_zeros(number) if old is None else _longer(old, number).to(losses)
        total = int(images.sum())
        means = sum_over_processes(group_means(self.signal(losses, wrong), groups, sizes, total))
        # An overflow in half precision, for which the caller skips the step, must not live on in the weights.
        grown = old + torch.where(means.isfinite(), self.growth(means, sizes, total), 0.0)
        self.log_weights = _centred(grown, sizes)
        return self.present(groups)

    def present(self, groups: Tensor) -> Tensor:
        """Weights of images, (B,), as they stand; 1 where no group has been counted or seen."""
        if self.log_weights is None or (self.sizes is None and self.seen is None):
            return torch.ones(len(groups), device=groups.device)
        sizes = self._known_sizes(len(self.log_weights), groups.device)
        probabilities = group_probabilities(self.log_weights.to(groups.device), sizes, self.mixing)
        return image_weights(probabilities, sizes, groups)

    def facts(self) -> dict[str, Any]:
        """Probability of each group, without the last ones that have no images, for the log, as JSON values."""
        if self.log_weights is None or (self.sizes is None and self.seen is None):
            return {}
        sizes = self._known_sizes(len(self.log_weights), self.log_weights.device)
        last = int((sizes > 0).nonzero().max())
        return {"group_weights": group_probabilities(self.log_weights, sizes, self.mixing)[: last + 1].tolist()}

    def _known_sizes(self, number: int, device: torch.device) -> Tensor:
        sizes = self.seen if self.sizes is None else self.sizes
        assert sizes is not None
        return _longer(sizes, number).to(device)


def _centred(log_weights: Tensor, sizes: Tensor) -> Tensor:
    """Log weights whose mean over groups with images is 0, as are those of all others."""
    return torch.where(sizes > 0, log_weights - log_weights[sizes > 0].mean(), 0.0)


def _longer(values: Tensor, number: int) -> Tensor:
    """`values` with zeros behind, up to `number`."""
    return F.pad(values, (0, max(0, number - len(values))))
