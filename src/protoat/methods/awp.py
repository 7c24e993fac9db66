"""Adversarial weight perturbation, around any method with one optimizer step for each batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from protoat.arguments import check_number
from protoat.attacks import Attack
from protoat.data import Origin
from protoat.errors import UserError
from protoat.functional.distributed import mean_over_processes, unwrap_model
from protoat.methods.base import Method, OneStep, never_starts
from protoat.methods.pgd import PGDAT
from protoat.reprs import constructor_repr, factory
from protoat.threats import ThreatModel
from protoat.types import Forwards


class AWP(Method):
    """Takes the gradient of another method's loss at weights moved a little in the direction that raises it most.

    Each kernel w moves by ``gamma * ||w|| * g / ||g||``, g being the gradient of the method's own loss on the same
    adversarial images (where images have weights, with those of before the batch); what the optimizer then adds is
    added to the weights as they were. Also when the step is never taken, the weights come back exactly. The
    perturbation costs one more forward and backward of the method's loss.

    Kernels are the model's parameters of two or more dimensions, prototypes of a `MultiPrototypeHead` too. Biases and
    batch norm stay, and so do a regularizer's prototypes, an auxiliary head and a second batch norm. Metric and
    norm terms have no say in the direction, but their gradients are taken at the moved weights like all others.
    Batch-norm statistics move once, in the second forward. In a distributed run the direction comes from the mean
    gradient, so every process moves its weights alike.

    Args:
        threat: norm and radius, handed on to `method`.
        method: the method whose step is perturbed, such as PGDAT or TRADES; built from the threat model.
        gamma: length of the move relative to each kernel's norm (0.01 around PGD, 0.005 around TRADES).
        start_epoch: epochs before the perturbation sets in (0 around PGD, 9 around TRADES: from the tenth on).
        ramp_epochs: epochs over which the radius of the method inside grows from 0; None leaves that to the method.

    Raises:
        ValueError: `gamma` is not positive, `start_epoch` is negative, or the method inside cannot be wrapped, as
            `FreeAT`, whose perturbation of the images comes from the caller's backward.

    Source: Wu, Xia & Wang, NeurIPS 2020, Eq. 10-12. Deviations: kernels are chosen by their dimensions where the
    authors' code looks for "weight" in the name too; the gradient is taken at the weights themselves and not on a copy,
    which gives the same direction; the code around PGD forwards the clean images in training mode after each step, for
    its log, which moves batch norm once more.

    >>> from functools import partial
    >>> from protoat.methods.trades import TRADES
    >>> from protoat.threats import Linf
    >>> AWP(Linf("8/255"), method=partial(TRADES, beta=5.0), gamma=0.005).method.beta
    5.0
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        method: Callable[[ThreatModel], Method] = PGDAT,
        gamma: float = 0.01,
        start_epoch: float = 0.0,
        ramp_epochs: float | None = None,
    ) -> None:
        super().__init__(threat, ramp_epochs=ramp_epochs)
        check_number("(0, inf)", "0.01 moves each kernel by 1 % of its norm", gamma=gamma)
        check_number("[0, inf)", "write 0 to begin at once", start_epoch=start_epoch)
        inner = method(threat)
        if not isinstance(inner, OneStep):
            raise UserError(
                f"AWP cannot wrap {type(inner).__name__}, whose examples come from the caller's own backward or which "
                "perturbs weights itself; wrap a method that makes its examples before its step, such as PGDAT"
            )
        self.method: OneStep = inner
        self.gamma = gamma
        self.start_epoch = start_epoch
        if ramp_epochs is not None:
            inner.ramp_epochs = ramp_epochs

    def __repr__(self) -> str:
        return constructor_repr(self, method=factory(self.method, getattr(self.method, "attack", None)))

    def check_classes(self, num_classes: int) -> None:
        self.method.check_classes(num_classes)

    def unreached(self, epochs: int) -> list[str]:
        own = (
            [] if self.start_epoch < epochs else [never_starts("weights are never perturbed", self.start_epoch, epochs)]
        )
        return self.method.unreached(epochs) + own

    @property
    def eps(self) -> float:
        return self.method.eps

    @property
    def attack(self) -> Attack | None:
        """What makes the examples of the method inside, where it is one attack."""
        return getattr(self.method, "attack", None)

    def at_epoch(self, epoch: float, epochs: float | None = None) -> None:
        super().at_epoch(epoch, epochs)
        self.method.at_epoch(epoch, epochs)

    @property
    def per_image(self) -> bool:
        return self.method.per_image

    def at_images(self, origin: Origin | None = None) -> None:
        self.method.at_images(origin)

    def prepare(self, model: nn.Module) -> None:
        self.method.prepare(model)

    def learner(self, model: nn.Module) -> nn.Module:
        return self.method.learner(model)

    def updates(self, model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Forwards]:
        if self._epoch < self.start_epoch:
            yield from self.method.updates(model, x, y)
            return
        examples = self.method.examples(model, x, y)
        network = unwrap_model(model)
        kernels = [p for p in network.parameters() if p.dim() > 1 and p.requires_grad]
        with torch.enable_grad(), _same_buffers(network):
            forwards = self.method.ascent_forward(network, examples)
            loss = self._present_loss(forwards, y)
            gradients = torch.autograd.grad(loss, kernels, materialize_grads=True)
        self.method.observe(forwards, y)
        del forwards, loss
        with _moved(kernels, _ascent(kernels, gradients, self.gamma)):
            yield self.method.forward(model, examples)

    def loss(self, forwards: Forwards, y: Tensor) -> Tensor:
        return self._told.loss(forwards, y)

    def losses(self, forwards: Forwards, y: Tensor) -> Tensor:
        return self._told.losses(forwards, y)

    def other_loss(self, forwards: Forwards, y: Tensor) -> Tensor | float:
        return self._told.other_loss(forwards, y)

    @property
    def weighs_images(self) -> bool:
        return self.method.weighs_images

    @property
    def _told(self) -> OneStep:
        """The method inside, which smooths labels as this one is to."""
        self.method.label_smoothing = self.label_smoothing
        return self.method

    def _present_loss(self, forwards: Forwards, y: Tensor) -> Tensor:
        if self.weights is None:
            return self.loss(forwards, y)
        return self.weighted_loss(self.losses(forwards, y), self.weights, forwards, y)

    @property
    def may_stop(self) -> bool:
        return self.method.may_stop

    def end_epoch(self, model: nn.Module) -> str | None:
        return self.method.end_epoch(model)


def _ascent(kernels: list[nn.Parameter], gradients: tuple[Tensor, ...], gamma: float) -> list[Tensor]:
    """The move of each kernel, ``gamma * ||w|| * g / ||g||``, from the mean gradient of all processes."""
    mean = mean_over_processes(torch.cat([gradient.flatten() for gradient in gradients]))
    # An overflow in half precision, for which the caller skips the step, must not live on in the weights.
    mean = torch.where(mean.isfinite(), mean, 0.0)
    parts = mean.split([kernel.numel() for kernel in kernels])
    return [
        (gamma * kernel.detach().norm() / (part.norm() + 1e-20) * part).view_as(kernel)
        for kernel, part in zip(kernels, parts, strict=True)
    ]


@contextmanager
def _moved(kernels: list[nn.Parameter], moves: list[Tensor]) -> Iterator[None]:
    """Moves the kernels; at the end they hold what they held before, plus whatever was added to them meanwhile."""
    before = [kernel.detach().clone() for kernel in kernels]
    with torch.no_grad():
        for kernel, move in zip(kernels, moves, strict=True):
            kernel.add_(move)
    after = [kernel.detach().clone() for kernel in kernels]
    try:
        yield
    finally:
        with torch.no_grad():
            for kernel, was, became in zip(kernels, before, after, strict=True):
                kernel.copy_(was + (kernel - became))


@contextmanager
def _same_buffers(model: nn.Module) -> Iterator[None]:
    """Puts every buffer (batch-norm statistics above all) back at the end."""
    buffers = list(model.buffers())
    before = [buffer.detach().clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, was in zip(buffers, before, strict=True):
                buffer.copy_(was)
