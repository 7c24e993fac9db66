"""Averages of the weights along a run (EMA, SWA, FAWA): when the model enters the average, and its share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from protoat.arguments import check_number, check_whole
from protoat.reprs import constructor_repr
from protoat.spelling import argument, setting


class Averaging(ABC):
    """A rule by which an average follows the model. The average is what `fit` validates, exports and hands back.

    Rules are pure: what has been averaged is kept by `fit`, with the number of times it was, and is checkpointed.
    Until the average has taken the model in for the first time, the model itself is deployed. Prototypes of a
    regularizer are not averaged: the head predicts. Those of a `MultiPrototypeHead` are, and merge in the average, too.

    Attributes:
        needs_validation: whether the rule asks how well classes do on held-out images.
        bn_batches: batches on which the average's batch-norm statistics are estimated anew each time it has changed at
            the end of an epoch; 0 averages the model's statistics like its weights.
    """

    needs_validation: ClassVar[bool] = False
    bn_batches: int = 0

    def __repr__(self) -> str:
        return constructor_repr(self)

    @abstractmethod
    def share(self, taken: int) -> float:
        """Share of the model in the average after this time, in (0, 1]; `taken` is how often it was taken in before."""

    def after_batch(self, epoch: float) -> bool:
        """Whether the average takes the model in now; `epoch` is how far training is, in passes over the data."""
        return False

    def after_epoch(self, epoch: int, worst_class: Callable[[], float]) -> bool:
        """Whether the average takes the model in at the end of pass `epoch` (from 1).

        Args:
            worst_class: measures the model's robust validation accuracy in its worst class, a fraction.
        """
        return False

    def unreached(self, epochs: int) -> list[str]:
        """What never happens in a run of so many epochs, in words; `fit` warns of it."""
        return []


class EMA(Averaging):
    """Exponential moving average, after each batch: ``average <- decay * average + (1 - decay) * model``.

    Args:
        decay: in (0, 1); 0.999 and 0.9996 are usual. The average begins with less, ``(1 + t) / (10 + t)`` after t
            batches, so that it leaves the first weights behind also in a short run.
        start_epoch: epochs before the average begins, as a copy of the model (DAJAT: 150 of 200).

    Raises:
        ValueError: a decay outside (0, 1), or a negative start.

    >>> [round(EMA(decay=0.9).share(taken), 6) for taken in (0, 2, 80, 1000)]
    [1.0, 0.75, 0.1, 0.1]
    """

    def __init__(self, *, decay: float = 0.999, start_epoch: float = 0.0) -> None:
        check_number("(0, 1)", "0.999 is usual", decay=decay)
        check_number("[0, inf)", "write 0 to average from the start", start_epoch=start_epoch)
        self.decay = decay
        self.start_epoch = start_epoch

    def share(self, taken: int) -> float:
        return 1 - min(self.decay, (1 + taken) / (10 + taken)) if taken else 1.0

    def after_batch(self, epoch: float) -> bool:
        return epoch >= self.start_epoch

    def unreached(self, epochs: int) -> list[str]:
        return _never_begun(self.start_epoch, epochs - 1) if self.start_epoch >= epochs else []


class SWA(Averaging):
    """Stochastic weight averaging: the plain mean of the model at the end of each epoch from one on.

    Batch-norm statistics of a mean are no mean of statistics: they are estimated anew from the forwards that the
    training method makes on its own (adversarial) examples for the averaged weights.

    Args:
        start_epoch: first epoch (from 1) that counts (authors: 161 of 200, at a constant learning rate).
        bn_batches: batches for the batch-norm statistics, each at the price of the method's examples and forwards.

    Raises:
        ValueError: an epoch or number of batches below 1.

    Source: Izmailov et al., UAI 2018. Deviation: statistics come from `bn_batches` batches after each epoch, since the
    average is validated then, and not from all training images once at the end.

    >>> [SWA(start_epoch=3).share(taken=n) for n in (0, 1, 3)]
    [1.0, 0.5, 0.25]
    """

    def __init__(self, *, start_epoch: int, bn_batches: int = 100) -> None:
        check_whole(start_epoch=start_epoch, bn_batches=bn_batches)
        self.start_epoch = start_epoch
        self.bn_batches = bn_batches

    def share(self, taken: int) -> float:
        return 1 / (taken + 1)

    def after_epoch(self, epoch: int, worst_class: Callable[[], float]) -> bool:
        return epoch >= self.start_epoch

    def unreached(self, epochs: int) -> list[str]:
        return _never_begun(self.start_epoch, epochs) if self.start_epoch > epochs else []


class FAWA(Averaging):
    """Fair weight averaging: after an epoch whose worst class is robust enough, ``decay`` x average + the rest model.

    Epochs that fall short leave the average as it is. Each epoch costs one more run of the validation attack.

    Args:
        threshold: least robust validation accuracy of the worst class, a fraction in [0, 1].
        decay: share of the old average, in (0, 1).

    Raises:
        ValueError: a threshold or decay out of range; in `fit`, no validation images.

    Source: Wei et al., CVPR 2023 (CFA), whose code has 0.24 and whose page has 0.2 as threshold for CIFAR-10.

    >>> rule = FAWA(threshold=0.2)
    >>> rule.after_epoch(1, lambda: 0.19), rule.after_epoch(2, lambda: 0.2), round(rule.share(taken=1), 6)
    (False, True, 0.12)
    """

    needs_validation = True

    def __init__(self, *, threshold: float = 0.2, decay: float = 0.88) -> None:
        check_number("[0, 1]", "it is a fraction of a class's images", threshold=threshold)
        check_number("(0, 1)", "0.88 is the authors'", decay=decay)
        self.threshold = threshold
        self.decay = decay

    def share(self, taken: int) -> float:
        return 1 - self.decay if taken else 1.0

    def after_epoch(self, epoch: int, worst_class: Callable[[], float]) -> bool:
        return worst_class() >= self.threshold


def _never_begun(start: float, last: int) -> list[str]:
    return [
        f"weights are never averaged ({setting(start_epoch=start)}); write {argument('start_epoch')} of at most {last}"
    ]
