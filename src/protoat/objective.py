"""The training objective: a method and a regularizer together."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from protoat.arguments import check_choice, check_epochs, check_kind, check_number, check_whole
from protoat.data import Origin
from protoat.epochs import Epoch, warn_of_eval_mode, warn_of_the_unlearned
from protoat.errors import UserError
from protoat.functional.forward import predicted
from protoat.functional.images import check_images, class_numbers
from protoat.methods import Method
from protoat.modes import Modes
from protoat.regularizers import Regularizer
from protoat.regularizers.terms import DMLInput, NormOf, metric_term, norm_term
from protoat.reprs import constructor_repr
from protoat.types import Forwards, LossTerms
from protoat.weighting import Weighting

logger = logging.getLogger(__name__)


class Objective(nn.Module):
    """Loss of a method + `weight` x metric term + `norm_weight` x norm term (paper, Eq. 5), with or without modes.

    A loop of your own goes through `epochs`, by which ramps grow, prototypes merge and guards look; `protoat.fit` does
    the same. `losses` alone, outside of it, trains at full strength.

    Args:
        method: how adversarial examples enter training.
        regularizer: metric term on embeddings, or None.
        weight: the paper's lambda_1 (0.5; 0.1 for Tiny ImageNet).
        norm_weight: the paper's lambda_2 (0.001; 0.005 for MNIST).
        norm: what it weighs: ``"embedding"``, the mean squared entry of the embeddings trained on; or ``"weights"``,
            the sum of squares of the model's kernels (parameters of two or more dimensions). That acts as a weight
            decay of ``2 * norm_weight`` on top of the optimizer's, which should then be 0.
        dml_input: which embeddings the metric term sees: ``"adv"``, those of the examples trained on; ``"clean"``; or
            ``"both"``, as one batch of twice the size. Clean embeddings that the method has not made take one more
            forward in the mode of training. Where ``DistributedDataParallel`` wraps the model, it then needs
            ``broadcast_buffers=False``, as in `protoat.fit`: the second forward overwrites buffers that the backward
            of the first needs.
        label_smoothing: share of the target that is spread evenly over all classes in the method's cross-entropy, and
            over all prototypes in that of modes; attacks and all other terms stay as they are.
        modes: which mode each image has, such as `KnownModes`; the method's loss then weighs 1 - lambda, and the
            cross-entropy of modes lambda. An image of unknown mode keeps the method's loss at weight 1; where that is
            of the whole batch (`Method.weighs_images`), lambda is scaled by the share of the other images.
        weighting: weighs each image in these two losses by its mode, where `modes` tell it, else by its class, such as
            `GroupDRO`. Images of unknown mode are a group of their class. Metric and norm terms, and what a method
            learns from other images (BiaMAT), have no weights.

    Attributes:
        stopped: why `epochs` ended early, or None.

    Raises:
        TypeError: no method, such as a class in place of an object, no regularizer, no modes, or no weighting.
        ValueError: a number or word outside its range, or parts that do not go together: `label_smoothing`, `modes` or
            a `weighting` and a method without labels; a `weighting` and a method without a loss per image; `dml_input`
            and a regularizer that chooses its own inputs (`TLA`); in use, a metric or norm term and a model without
            embeddings, or modes and one without a `MultiPrototypeHead`.

    Source: paper, Eq. 5. The paper calls the norm term weight decay while its optimizer has one too; the default takes
    it as a penalty on embeddings, as in TLA, from which the value comes. The paper does not say which embeddings the
    metric term sees; its training times leave room for the adversarial ones only.

    >>> from protoat.methods import PGDAT
    >>> from protoat.threats import Linf
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> objective = Objective(PGDAT(Linf(0.1)))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> batches = [(torch.rand(8, 1, 2, 2), torch.arange(8) % 2)] * 3
    >>> for epoch in objective.epochs(2, net, optimizer):
    ...     for x, y in epoch.batches(batches):
    ...         for terms in objective.losses(net, x, y):
    ...             optimizer.zero_grad(); terms.total.backward(); optimizer.step()
    >>> epoch.number, objective.stopped
    (2, None)
    """

    def __init__(
        self,
        method: Method,
        regularizer: Regularizer | None = None,
        *,
        weight: float = 0.5,
        norm_weight: float = 0.0,
        norm: NormOf = "embedding",
        dml_input: DMLInput = "adv",
        label_smoothing: float = 0.0,
        modes: Modes | None = None,
        weighting: Weighting | None = None,
    ) -> None:
        super().__init__()
        check_kind(Method, "such as protoat.PGDAT(protoat.Linf(8/255))", method=method)
        if regularizer is not None:
            check_kind(Regularizer, "such as protoat.SoftTriple(10, 512)", regularizer=regularizer)
        check_number("[0, inf)", weight=weight, norm_weight=norm_weight)
        check_choice(NormOf, norm=norm)
        check_choice(DMLInput, dml_input=dml_input)
        if dml_input != "adv" and regularizer is not None and type(regularizer).term is not Regularizer.term:
            raise UserError(f"{type(regularizer).__name__} chooses its own inputs; leave dml_input at 'adv'")
        check_number("[0, 1)", "0.1 is usual", label_smoothing=label_smoothing)
        if modes is not None:
            check_kind(Modes, "such as protoat.KnownModes(train)", modes=modes)
        if weighting is not None:
            check_kind(Weighting, "such as protoat.GroupDRO()", weighting=weighting)
        name = type(method).__name__
        if not method.labelled and (label_smoothing or modes is not None or weighting is not None):
            raise UserError(f"{name} learns without labels; leave label_smoothing at 0, and modes and weighting out")
        if weighting is not None and not method.weighs_images:
            raise UserError(
                f"{name} has a loss of its own for the whole batch; write {name}.losses, (B,), one for each image"
            )
        if regularizer is not None:
            regularizer.check_modes(None if modes is None else modes.per_class)
        self.method = method
        self.regularizer = regularizer
        self.weight = weight
        self.norm_weight = norm_weight
        self.norm = norm
        self.dml_input = dml_input
        self.label_smoothing = float(label_smoothing)
        self.modes = modes
        self.weighting = weighting
        self.stopped: str | None = None
        self._warned_of_mode = False

    def __repr__(self) -> str:
        return constructor_repr(self)

    def losses(
        self, model: nn.Module, x: Tensor, y: Tensor, origin: Origin | Tensor | None = None
    ) -> Iterator[LossTerms]:
        """The weighted terms of each optimizer step; the caller runs ``backward`` and ``step`` before the next.

        Args:
            model: images -> `Output` or logits.
            x: (B, ...) images in [0, 1].
            y: (B,) class numbers, integers of any width.
            origin: which images these are, for a method that keeps something of each, or for modes (`per_image`); (B,)
                integers where no augmentation moved them.

        Raises:
            ValueError: images that are no floats in [0, 1], labels that are no classes of the model, or no `origin`
                where the method or the modes need one.
        """
        x = check_images(x)
        y = class_numbers(y, len(x))
        last = int(y.max()) if len(y) else 0
        check_kind(nn.Module, model=model)
        self._warned_of_mode = self._warned_of_mode or warn_of_eval_mode(model)
        origin = Origin(origin) if isinstance(origin, Tensor) else origin
        self.method.at_images(origin)
        self.method.label_smoothing = self.label_smoothing
        modes, places, groups = None, None, y
        if self.modes is not None:
            modes = self.modes.at(origin, y)
            places, groups = self.modes.places(modes), self.modes.groups(modes, y)
        if self.regularizer is not None:
            self.regularizer.at_places(places)
        self.method.weights = None if self.weighting is None else self.weighting.present(groups)
        try:
            for forwards in self.method.updates(model, x, y):
                classes = forwards.adv.logits.shape[1]
                if last >= classes and self.method.labelled:
                    raise UserError(f"labels run up to {last}, and the model has {classes} classes, from 0")
                learner = self.method.learner(model)
                base, mode = self._base(learner, forwards, y, modes, groups)
                metric = norm = None
                if self.regularizer is not None:
                    metric = metric_term(self.regularizer, learner, x, y, forwards, seen=self.dml_input)
                    metric = self.weight * metric
                if self.norm_weight:
                    norm = self.norm_weight * norm_term(self.norm, learner, forwards)
                yield LossTerms(base, metric, norm, mode)
        finally:
            self.method.weights = None
            if self.regularizer is not None:  # which may be called outside of training
                self.regularizer.at_places(None)

    def _base(
        self, model: nn.Module, forwards: Forwards, y: Tensor, modes: Tensor | None, groups: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The method's loss and that of modes, in which images may have weights; one of unknown mode has the first."""
        known, mode_losses, share = torch.zeros(len(y), device=y.device), None, 0.0
        if self.modes is not None and modes is not None and (share := self.modes.weight):
            known = (modes >= 0).float()
            mode_losses = self.modes.losses(model, forwards.adv, modes, label_smoothing=self.label_smoothing)
        kept = 1 - share * known  # of the method's loss, for each image
        uniform = mode_losses is None or bool(known.all()) or not self.method.weighs_images
        if self.weighting is None and uniform:
            base = self.method.loss(forwards, y)
            return (base, None) if mode_losses is None else (kept.mean() * base, share * mode_losses.mean())
        losses, weights = kept * self.method.losses(forwards, y), torch.ones_like(known)
        if self.weighting is not None:
            both = losses if mode_losses is None else losses + share * mode_losses
            logits = forwards.adv.logits.detach()
            groups_in_all = logits.shape[1] if self.modes is None else self.modes.num_groups
            weights = self.weighting.weights(groups, both.detach(), predicted(logits) != y, groups_in_all)
        base = (weights * losses).mean() + kept.mean() * self.method.other_loss(forwards, y)
        return base, None if mode_losses is None else share * (weights * mode_losses).mean()

    def count_classes(self, labels: Tensor, num_classes: int) -> None:
        """Tells the weighting the classes (N,) of all training images before training, as `protoat.fit` does.

        A weighting by modes is told by them.
        """
        if self.weighting is not None and self.modes is None:
            self.weighting.count(labels, num_classes)

    @property
    def updates_per_batch(self) -> int:
        """Optimizer steps for each batch."""
        return self.method.updates_per_batch

    @property
    def per_image(self) -> bool:
        """Whether batches must say which images they hold, as those of ``ImageLoader(..., origins=True)`` do."""
        return self.method.per_image or self.modes is not None

    def prepare(self, model: nn.Module) -> None:
        """Lets the method and the modes build what they need of this model; `parameter_groups` and `fit` call it.

        Raises:
            ValueError: modes whose loss the model's head cannot give.
        """
        self.method.prepare(model)
        if self.modes is not None:
            self.modes.prepare(model)
            if self.weighting is not None:
                self.weighting.count(*self.modes.all_groups())

    def prototypes(self) -> list[nn.Parameter]:
        """The parameters of the regularizer that have a learning rate of their own."""
        return [] if self.regularizer is None else self.regularizer.with_own_rate()

    def layers(self) -> list[nn.Parameter]:
        """All other parameters, which learn as the network's: an auxiliary head, a projection."""
        own = {id(prototype) for prototype in self.prototypes()}
        return [parameter for parameter in self.parameters() if id(parameter) not in own]

    def epoch(self, number: int, epochs: int, model: nn.Module, optimizer: Optimizer | None = None) -> Epoch:
        """Pass `number` (from 1) of `epochs`, for a loop that must do more at its end than `epochs` lets it."""
        return Epoch(
            self.method,
            self.regularizer,
            model,
            optimizer,
            number=number,
            epochs=epochs,
            modes=self.modes,
            weighting=self.weighting,
        )

    def epochs(
        self, epochs: int, model: nn.Module, optimizer: Optimizer | None = None, *, done: int = 0
    ) -> Iterator[Epoch]:
        """The passes of a training loop, each of which gives out its batches and ends itself.

        Where a guard asks to stop, model, objective and optimizer go back to where they were before the pass, the
        reason is logged and kept in `stopped`, and the iteration ends.

        Args:
            epochs: passes in all.
            model: what is trained.
            optimizer: what steps it and the objective; it forgets the momentum of prototypes that merge.
            done: passes that an earlier loop has made, whose state was loaded.

        Raises:
            ValueError: `epochs` below 1, or `done` outside [0, `epochs`].
        """
        check_epochs(epochs)
        check_whole(0, done=done)
        if done > epochs:
            raise UserError(f"done={done} epochs of {epochs}; write at most {epochs}")
        self.prepare(model)
        self.stopped = None
        parts: list[Any] = [model, self] if optimizer is None else [model, self, optimizer]
        if optimizer is not None:
            warn_of_the_unlearned(self, optimizer)
        for number in range(done + 1, epochs + 1):
            before = copy.deepcopy([part.state_dict() for part in parts]) if self.method.may_stop else []
            epoch = self.epoch(number, epochs, model, optimizer)
            yield epoch
            self.stopped = epoch.end().stop
            if self.stopped is not None:
                for part, state in zip(parts, before, strict=True):
                    part.load_state_dict(state)
                logger.warning("stopped and went back to the end of epoch %d: %s", number - 1, self.stopped)
                return
