"""The only place where a training method and a regularizer meet."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from protoat.arguments import check_kind, check_number
from protoat.functional.forward import output_of
from protoat.functional.images import check_images
from protoat.functional.labels import class_numbers
from protoat.functional.precision import at_least_float32
from protoat.methods import Method
from protoat.regularizers import Regularizer
from protoat.types import LossTerms, Views

__all__ = ["EpochEnd", "Objective"]

logger = logging.getLogger(__name__)


class EpochEnd(NamedTuple):
    """What the end of an epoch brought: a reason to stop and roll back, or None; and facts for the log."""

    stop: str | None
    facts: dict[str, Any]


class Objective:
    """Loss of a method + `weight` x metric term + `norm_weight` x norm term (paper, Eq. 5).

    A loop of your own says where training is: `at_epoch` before each batch, for ramps and warm-ups, and `end_epoch`
    after each pass, when prototypes merge and guards look. A loop without them trains at full strength and is warned
    once of what it gives up; `protoat.fit` makes both calls.

    Args:
        method: how adversarial examples enter training.
        regularizer: metric term on embeddings, or None.
        weight: the paper's lambda_1 (0.5; 0.1 for Tiny ImageNet).
        norm_weight: the paper's lambda_2 (0.001; 0.005 for MNIST).
        norm: what it weighs: ``"embedding"``, the mean squared entry of the embeddings trained on; or ``"weights"``,
            the sum of squares of the model's kernels (parameters of two or more dimensions, so neither biases nor batch
            norm; prototypes are no part of the model). It acts as a weight decay of ``2 * norm_weight`` on top of the
            optimizer's, which should then be 0.
        dml_input: which embeddings the metric term sees: ``"adv"``, those of the examples trained on; ``"clean"``; or
            ``"both"``, as one batch of twice the size. Clean embeddings are those the method has made. Where it has
            made none they take one more forward of the clean images in the mode of training, separate from the
            adversarial one, so that batch norm uses each batch's own statistics and moves the running ones twice. Where
            ``DistributedDataParallel`` wraps the model, it needs ``broadcast_buffers=False``, as in `protoat.fit`:
            otherwise many releases of torch fail, because the second forward overwrites buffers that the first one's
            backward needs.

    Raises:
        TypeError: no method, such as a class in place of an object, or no regularizer.
        ValueError: a negative weight, an unknown reading, `dml_input` for a regularizer that chooses its own inputs
            (`TLA`), or, in use, a model without embeddings.

    Source: paper, Eq. 5. The paper calls the last term weight decay while its optimizer has one too; as in TLA, from
    which the value comes, the default takes it as a penalty on embeddings. The paper does not say which embeddings the
    metric term sees; its training times leave room for the adversarial ones only.

    >>> from protoat.methods import PGDAT
    >>> from protoat.types import Linf
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> objective = Objective(PGDAT(Linf(0.1)))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> batches = [(torch.rand(8, 1, 2, 2), torch.arange(8) % 2)] * 3
    >>> for epoch in range(2):
    ...     for done, (x, y) in enumerate(batches):
    ...         objective.at_epoch(epoch + done / len(batches), epochs=2)
    ...         for terms in objective.losses(net, x, y):
    ...             optimizer.zero_grad(); terms.total.backward(); optimizer.step()
    ...     end = objective.end_epoch(epoch + 1, 2, net, optimizer)
    >>> end
    EpochEnd(stop=None, facts={})
    """

    def __init__(
        self,
        method: Method,
        regularizer: Regularizer | None = None,
        *,
        weight: float = 0.5,
        norm_weight: float = 0.0,
        norm: Literal["embedding", "weights"] = "embedding",
        dml_input: Literal["adv", "clean", "both"] = "adv",
    ) -> None:
        check_kind(Method, "such as protoat.methods.PGDAT(protoat.Linf(8/255))", method=method)
        if regularizer is not None:
            check_kind(Regularizer, "such as protoat.regularizers.SoftTriple(10, 512)", regularizer=regularizer)
        check_number("[0, inf)", weight=weight, norm_weight=norm_weight)
        if norm not in ("embedding", "weights"):
            raise ValueError(f"norm={norm!r} is unknown; write 'embedding' or 'weights'")
        if dml_input not in ("adv", "clean", "both"):
            raise ValueError(f"dml_input={dml_input!r} is unknown; write 'adv', 'clean' or 'both'")
        if dml_input != "adv" and regularizer is not None and type(regularizer).term is not Regularizer.term:
            raise ValueError(f"{type(regularizer).__name__} chooses its own inputs; leave dml_input at 'adv'")
        self.method = method
        self.regularizer = regularizer
        self.weight = weight
        self.norm_weight = norm_weight
        self.norm = norm
        self.dml_input = dml_input
        self._first: float | None = None  # the epoch that was told first
        self._epoch = 0.0
        self._ended = self._warned = self._warned_of_mode = False

    def losses(self, model: nn.Module, x: Tensor, y: Tensor) -> Iterator[LossTerms]:
        """The weighted terms of each optimizer step; the caller runs ``backward`` and ``step`` before the next.

        Args:
            model: images -> `Output` or logits.
            x: (B, ...) images in [0, 1].
            y: (B,) class numbers, integers of any width.

        Raises:
            ValueError: images that are no floats in [0, 1], or labels that are no classes of the model.
        """
        x = check_images(x)
        y = class_numbers(y, len(x))
        last = int(y.max()) if len(y) else 0
        check_kind(nn.Module, model=model)
        self._warn_of_silence()
        self._warn_of_eval_mode(model)
        for views in self.method.updates(model, x, y):
            classes = views.adv.logits.shape[1]
            if last >= classes and self.method.labelled:
                raise ValueError(f"labels run up to {last}, and the model has {classes} classes, from 0")
            base = self.method.outer_loss(views, y)
            yield LossTerms(base, self._metric(model, x, y, views), self._norm(model, views))

    def _warn_of_silence(self) -> None:
        """Once, of what a loop gives up that has not said the epoch, or has gone on to the next without its end."""
        told = self._ended if self._first is None else self._ended or self._epoch < self._first + 1
        given_up = self.lost_without_epochs
        if told or self._warned or not given_up:
            return
        self._warned = True
        logger.warning(
            "a loop of your own says where training is by objective.at_epoch(epoch, epochs) before each batch and "
            "objective.end_epoch(epoch, epochs, model, optimizer) after each pass; without both, %s",
            ", and ".join(given_up),
        )

    def _warn_of_eval_mode(self, model: nn.Module) -> None:
        """Once, of a model that an evaluation between two epochs has left in eval mode."""
        if model.training or self._warned_of_mode:
            return
        layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm | _DropoutNd)]
        if layers and not any(layer.training for layer in layers):
            self._warned_of_mode = True
            logger.warning(
                "the model trains in eval mode: batch norm keeps its statistics and dropout is off; call model.train() "
                "after each evaluation"
            )

    def _warn_of_the_unlearned(self, optimizer: Optimizer) -> None:
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if any(id(parameter) not in held for parameter in self.parameters()):
            logger.warning(
                "the optimizer lacks what the objective learns, such as prototypes, which stay as they are; build it "
                "from protoat.training.parameter_groups(model, objective, lr=...)"
            )

    @property
    def lost_without_epochs(self) -> list[str]:
        """What is given up, in words, in a loop that says neither the epoch nor its end."""
        lost = [] if self.regularizer is None else self.regularizer.lost_without_epochs
        return self.method.lost_without_epochs + lost

    def _metric(self, model: nn.Module, x: Tensor, y: Tensor, views: Views) -> Tensor | None:
        if self.regularizer is None:
            return None
        adversarial = _embedding(views)
        if self.dml_input == "adv":
            return self.weight * self.regularizer.term(model, x, y, views)
        clean = (output_of(model, x) if views.clean is None else views.clean).embedding
        if self.dml_input == "clean":
            return self.weight * self.regularizer(clean, y)
        return self.weight * self.regularizer(torch.cat([adversarial, clean]), torch.cat([y, y]))

    def _norm(self, model: nn.Module, views: Views) -> Tensor | None:
        if not self.norm_weight:
            return None
        if self.norm == "embedding":
            return self.norm_weight * at_least_float32(_embedding(views)).square().mean()
        kernels = [at_least_float32(p).square().sum() for p in model.parameters() if p.dim() > 1 and p.requires_grad]
        return self.norm_weight * torch.stack(kernels).sum()

    @property
    def updates_per_batch(self) -> int:
        """Optimizer steps for each batch."""
        return self.method.updates_per_batch

    def prepare(self, model: nn.Module) -> None:
        """Lets the method build what it learns for this model; `parameter_groups` and `fit` call it."""
        self.method.prepare(model)

    def prototypes(self) -> list[nn.Parameter]:
        """What the regularizer learns."""
        return [] if self.regularizer is None else list(self.regularizer.parameters())

    def parameters(self) -> list[nn.Parameter]:
        """What the objective itself learns: what its method does (after `prepare`), and prototypes.

        All of it must be in the optimizer.
        """
        return [*self.method.parameters(), *self.prototypes()]

    def to(self, device: torch.device | str) -> Objective:
        """Moves what is learned; all else follows the batches."""
        self.method.to(device)
        if self.regularizer is not None:
            self.regularizer.to(device)
        return self

    def at_epoch(self, epoch: float, epochs: float | None = None) -> None:
        """Tells how far training is, in passes over the data, and of how many if that is known."""
        self._first, self._epoch = epoch if self._first is None else self._first, epoch
        self.method.at_epoch(epoch, epochs)

    def end_epoch(self, epoch: int, epochs: int, model: nn.Module, optimizer: Optimizer | None = None) -> EpochEnd:
        """Runs what is due after pass `epoch` (from 1): the method's guard, the regularizer's merge.

        Args:
            epoch, epochs: passes done, and to be done.
            model: what the guard looks at.
            optimizer: forgets the momentum of prototypes that merge; it should be the one that steps them.
        """
        if optimizer is not None and not self._ended:
            self._warn_of_the_unlearned(optimizer)
        self._ended = True
        stop = self.method.end_epoch(model)
        if stop is not None or self.regularizer is None:
            return EpochEnd(stop, {})
        return EpochEnd(None, self.regularizer.end_epoch(epoch, epochs, optimizer))

    def state_dict(self) -> dict[str, Tensor]:
        """Prototypes, masks and counters (``regularizer.*``); what belongs to one process (``method.*``).

        The latter is the method's state and, as ``method.regularizer.*``, the regularizer's `per_process` buffers.
        """
        state = {f"method.{key}": value for key, value in self.method.state_dict().items()}
        if self.regularizer is not None:
            for key, value in self.regularizer.state_dict().items():
                own = "method." if key in self.regularizer.per_process else ""
                state[f"{own}regularizer.{key}"] = value
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes back what `state_dict` gave."""
        part = lambda name: {k.removeprefix(name): v for k, v in state.items() if k.startswith(name)}  # noqa: E731
        if self.regularizer is not None:
            self.regularizer.load_state_dict(part("regularizer.") | part("method.regularizer."))
        self.method.load_state_dict({k: v for k, v in part("method.").items() if not k.startswith("regularizer.")})


def _embedding(views: Views) -> Tensor:
    """The embeddings trained on, which a model that returns logits only does not have."""
    if not views.adv.embedding.shape[1]:
        raise ValueError(
            "the model returns logits only, and a metric or norm term needs embeddings; "
            "wrap it: protoat.models.with_embedding(model, layer=...)"
        )
    return views.adv.embedding
