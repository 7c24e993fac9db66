"""What every attack shares: the world is left as found, the budget is enforced, success is judged in one place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from protoat.functional.ball import Radius, project
from protoat.types import Output, ThreatModel, as_output

__all__ = ["Attack", "AttackLoss", "AttackResult", "BatchNormMode", "Problem", "attacking"]

BatchNormMode = Literal["eval", "train", "train_frozen"]
AttackLoss = Callable[[Output, Tensor], Tensor]


class AttackResult(NamedTuple):
    """Outcome of an attack.

    Attributes:
        x_adv: (B, ...) images inside the budget and [0, 1].
        success: (B,) bool; the label was left (untargeted) or the target was reached (targeted).
        correct: (B,) bool; the model still gives the true label.
    """

    x_adv: Tensor
    success: Tensor
    correct: Tensor


class Problem(NamedTuple):
    """One batch as an attack sees it.

    Attributes:
        model: images -> `Output`, in the mode the attack asked for, parameters frozen.
        x: (B, ...) clean images in [0, 1].
        y: (B,) true labels.
        targets: (B,) classes to reach, or None.
        eps: radius, a number or (B,).
        generator: the only source of randomness.
    """

    model: Callable[[Tensor], Output]
    x: Tensor
    y: Tensor
    targets: Tensor | None
    eps: Radius
    generator: torch.Generator


@contextmanager
def attacking(model: nn.Module, bn: BatchNormMode = "eval") -> Iterator[None]:
    """Puts `model` into attack mode and restores every module's mode and every ``requires_grad``, also on errors.

    Args:
        bn: ``"eval"`` uses running statistics; ``"train"`` uses batch statistics and moves the running ones, as Madry's,
            Free-AT's and Fast-AT's scripts do; ``"train_frozen"`` uses batch statistics and leaves the running ones.
            Everything else (dropout) is in eval mode throughout.
    """
    modules = list(model.modules())
    modes = [module.training for module in modules]
    norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._BatchNorm)] if bn != "eval" else []
    tracking = [m.track_running_stats for m in norms]
    parameters = [p for p in model.parameters() if p.requires_grad]
    try:
        for module in modules:
            module.training = False
        for parameter in parameters:
            parameter.requires_grad_(False)
        for module in norms:
            module.training = True
            if bn == "train_frozen":
                module.track_running_stats = False
        yield
    finally:
        for module, track in zip(norms, tracking, strict=True):
            module.track_running_stats = track
        for parameter in parameters:
            parameter.requires_grad_(True)
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


class Attack(ABC):
    """Base of all attacks. A subclass writes `run`; budget, range, side effects and success are handled here.

    Args:
        threat: what the adversary may do.
        bn: batch norm while attacking, see `attacking`.
        seed: makes a call repeatable when no generator is passed.
    """

    can_target: ClassVar[bool] = True

    def __init__(self, threat: ThreatModel, *, bn: BatchNormMode = "eval", seed: int = 0) -> None:
        if bn not in ("eval", "train", "train_frozen"):
            raise ValueError(f"bn={bn!r} is unknown; write 'eval', 'train' or 'train_frozen'")
        self.threat = threat
        self.bn: BatchNormMode = bn
        self.seed = seed

    @abstractmethod
    def run(self, problem: Problem) -> Tensor:
        """Adversarial images of shape ``problem.x.shape``; the caller projects them once more."""

    def parameters(self) -> dict[str, Any]:
        """Everything that defines this attack, ready for JSON: nobody has to guess what ``pgd10`` was."""
        values = {key: getattr(value, "__name__", value) for key, value in vars(self).items() if key != "threat"}
        return {"attack": type(self).__name__, "norm": self.threat.norm, "eps": self.threat.eps, **values}

    def perturb(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        targets: Tensor | None = None,
        eps: Radius | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Adversarial images for a batch, detached, inside the budget and [0, 1].

        Args:
            model: images -> `Output` or logits. Its modes, gradients, ``requires_grad``, batch-norm statistics (unless
                ``bn="train"``) and the global random state are as before afterwards, also when the attack raises.
            x: (B, ...) images in [0, 1].
            y: (B,) int64 true labels.
            targets: (B,) classes to reach, each different from the label.
            eps: radius in place of the threat model's, a number or (B,); used by ramps and class-wise budgets.
            generator: randomness, on the device of `x`; the attack's own seed otherwise.

        Raises:
            ValueError: images outside [0, 1], labels that do not fit, targets equal to labels or for an attack that has
                no targeted form.
        """
        self._check(x, y, targets)
        if generator is None:
            generator = torch.Generator(x.device).manual_seed(self.seed)
        network = model.module if isinstance(model, DistributedDataParallel) else model
        radius = self.threat.eps if eps is None else eps
        x = x.detach()
        with attacking(network, self.bn), torch.enable_grad():
            problem = Problem(lambda images: as_output(network(images)), x, y, targets, radius, generator)
            x_adv = self.run(problem)
        return project(x_adv.detach(), x, radius, self.threat.norm)

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        targets: Tensor | None = None,
        eps: Radius | None = None,
        generator: torch.Generator | None = None,
    ) -> AttackResult:
        """`perturb`, then one forward in eval mode that judges success; arguments as there."""
        x_adv = self.perturb(model, x, y, targets=targets, eps=eps, generator=generator)
        network = model.module if isinstance(model, DistributedDataParallel) else model
        with attacking(network), torch.no_grad():
            predicted = as_output(network(x_adv)).logits.argmax(1)
        correct = predicted == y
        return AttackResult(x_adv, ~correct if targets is None else predicted == targets, correct)

    def _check(self, x: Tensor, y: Tensor, targets: Tensor | None) -> None:
        if len(x) != len(y):
            raise ValueError(f"{len(x)} images came with {len(y)} labels")
        if len(x) and not (0 <= float(x.min()) and float(x.max()) <= 1):
            raise ValueError(
                f"images lie in [{float(x.min()):.3g}, {float(x.max()):.3g}], expected [0, 1]; "
                "put normalisation inside the model (protoat.models.Normalize)"
            )
        if targets is None:
            return
        if not self.can_target:
            raise ValueError(f"{type(self).__name__} has no targeted form; call it without targets")
        if bool((targets == y).any()):
            raise ValueError("some targets equal the true labels; draw targets from the wrong classes")
