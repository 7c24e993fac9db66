"""The base class of attacks: enforces the budget, judges success, restores the model."""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from protoat.arguments import check_choice, check_seed
from protoat.attacks.attacked_model import AttackedModel
from protoat.attacks.examination import NOTHING_FOUND, Examination, MeasurementWarning, examine, is_examined
from protoat.attacks.mode import BatchNormMode, attacking
from protoat.attacks.precision import Passes, attacks_in
from protoat.attacks.problem import AttackResult, Problem, checked_images, checked_radius, usable
from protoat.errors import NoGradientError, UserError, in_a_line
from protoat.functional.batch import Radius
from protoat.functional.forward import as_module, output_of, predicted
from protoat.functional.hidden import hidden_parts_in_eval
from protoat.functional.preserve import preserve_random_state
from protoat.reprs import constructor_repr
from protoat.threats import ThreatModel, check_threat
from protoat.types import Output


class Attack(ABC):
    """Base of all attacks. A subclass writes `run`; budget, range, side effects and success are handled here.

    Args:
        threat: what the adversary may do.
        bn: batch norm while attacking, see `attacking`.
        seed: makes a call repeatable when no generator is passed: each then draws the same noise.

    Raises:
        TypeError: no threat model, such as a radius alone.
        ValueError: an unknown mode of batch norm.
    """

    can_target: ClassVar[bool] = True
    alarms: tuple[str, ...] = ()  # of the last run, in words; see `stages`

    def __new__(cls, *args: Any, **options: Any) -> Any:
        """Answers ``PGD(model, eps=8/255)``, as in libraries whose attacks hold the model, with the right calls."""
        known = inspect.signature(cls.__init__).parameters
        foreign = {"model", "eps", "alpha"} & options.keys() - known.keys()
        if [*known][1:2] == ["threat"] and (foreign or (args and callable(args[0]))):
            raise TypeError(
                f"{cls.__name__} takes a threat model, and the model when it is called; write "
                f"attack = pa.{cls.__name__}(pa.Linf(8/255)), then attack(model, x, y).x_adv"
            )
        return super().__new__(cls)

    def __init__(self, threat: ThreatModel, *, bn: BatchNormMode = "eval", seed: int = 0) -> None:
        check_threat(threat, type(self))
        check_choice(BatchNormMode, bn=bn)
        check_seed(seed=seed)
        self.threat = threat
        self.bn: BatchNormMode = bn
        self.seed = int(seed)

    @abstractmethod
    def run(self, problem: Problem) -> Tensor:
        """Adversarial images of shape ``problem.x.shape``; the caller projects them once more."""

    def __repr__(self) -> str:
        return constructor_repr(self)

    def parameters(self) -> dict[str, Any]:
        """Everything that defines this attack, ready for JSON: nobody has to guess what ``pgd10`` was."""
        values = {key: plain(value) for key, value in vars(self).items() if key != "threat"}
        return {"attack": type(self).__name__, "norm": self.threat.norm, "eps": self.threat.eps, **values}

    @property
    def follows_gradients(self) -> bool:
        """Whether it needs gradients of the model that it is run on."""
        return True

    @property
    def gradient_steps(self) -> int | None:
        """Steps of an attack that uses nothing of its passes but gradients, so that these may be in bfloat16.

        None, as here, is an attack that decides by logits: when an image leaves, which of two is kept, what the next
        step is. Such a decision in bfloat16 may be wrong in float32, so all its passes are float32, also those of an
        attack within it; but see `coarse_runs`.
        """
        return None

    @property
    def stages(self) -> tuple[Attack, Attack | None]:
        """What a measurement begins with, and what it goes on to, if anything.

        The second attack is for every robust image of the data, and only if the first has `alarms` on any batch.
        """
        return self, None

    @property
    def queue(self) -> Sequence[Attack]:
        """Parts that a measurement runs one after the other, each on all images of the data that are still robust.

        None, as here, is an attack that a measurement runs on each batch as a whole.
        """
        return ()

    @property
    def coarse_runs(self) -> bool:
        """Whether it has runs that may use bfloat16 where results are judged.

        Such a run confirms in float32 whatever it keeps, and ends in float32: see `active.gradient_run` for runs along
        gradients, and `Screen` for searches.
        """
        return False

    def check(self, images: tuple[int, ...], output: Output) -> None:
        """Refuses a model or images that this attack cannot be run on, before any time is spent.

        Args:
            images: shape of a batch of images, (B, ...).
            output: of a few of them.

        Raises:
            ValueError: what is lacking.
        """
        loss = getattr(self, "loss", None)
        if loss is not None and len(output.logits):
            first = Output(output.logits[:1], output.embedding[:1])
            try:
                loss(first, output.logits.new_zeros(1, dtype=torch.int64))
            except (ValueError, RuntimeError, IndexError) as error:
                said = in_a_line(error)
                raise UserError(f"{type(self).__name__} cannot be run on this model: its loss says {said}") from error

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
        """Adversarial images for a batch, detached, inside the budget and [0, 1]; the model is examined first.

        Args:
            model: images -> `Output` or logits; a module or a function. Its modes, gradients, ``requires_grad``,
                batch-norm statistics (unless ``bn="train"``) and the global random state are as before afterwards, also
                when the attack raises.
            x: (B, ...) images in [0, 1], float32 or float64; rounding of up to 0.001 beyond is cut off.
            y: (B,) int64 true labels.
            targets: (B,) classes to reach, each different from the label.
            eps: radius in place of the threat model's, a number or (B,); used by ramps and class-wise budgets.
            generator: randomness, on the device of `x`. Without one, the attack's seed starts a new one, so that every
                call draws the same noise; in a training loop pass one that lives on from call to call.

        Raises:
            ValueError: images outside [0, 1] or in half precision, labels or targets outside the model's classes,
                targets equal to labels or for an attack that has no targeted form, a negative radius; a model that
                returns no logits, or passes no gradient to an attack that follows it (`NoGradientError`).

        Warns:
            MeasurementWarning: what `examine` found, or some gradients are not finite; 0 takes their place.
        """
        network = as_module(model)
        with hidden_parts_in_eval(self._examined(network, x, y).hidden):
            return self.craft(network, x, y, targets=targets, eps=eps, generator=generator)

    def craft(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        targets: Tensor | None = None,
        eps: Radius | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """`perturb` of a model that the caller has examined, or trains: no look at it first."""
        radius = self.threat.eps if eps is None else eps
        with self.posed(model, x, y, targets=targets, eps=radius, generator=generator) as problem:
            x_adv = self.run(problem).detach() if len(x) else problem.x
        # A model that overflows must not be able to break the budget.
        x_adv = torch.where(x_adv.isfinite(), x_adv, problem.x)
        return self.threat.geometry.project(x_adv, problem.x, problem.eps)

    def _examined(self, network: nn.Module, x: Tensor, y: Tensor) -> Examination:
        """What four of the images show of a model, said as warnings."""
        x = checked_images(x, y)
        if not len(x) or is_examined():
            return NOTHING_FOUND
        found = examine(network, x[:4], gradients=self.follows_gradients)
        self.check(tuple(x.shape), found.output)
        if self.follows_gradients and not found.differentiable:
            raise NoGradientError(found.cut)
        for finding in found.of_attack(self.follows_gradients):
            # Spoilt gradients are counted while the attack runs.
            if finding.severity != "note" and finding.code != "spoilt-gradient":
                warnings.warn(f"{finding.code}: {finding.text}", MeasurementWarning, stacklevel=4)
        return found

    @contextmanager
    def posed(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        targets: Tensor | None,
        eps: Radius,
        generator: torch.Generator | None,
    ) -> Iterator[Problem]:
        """The checked problem, with the model in attack mode for as long as the context lasts."""
        steps = self.gradient_steps
        exact = attacks_in("fp32") if steps is None and not self.coarse_runs else nullcontext()
        with torch.inference_mode(False), torch.enable_grad(), exact:
            x, y, eps = checked_images(x, y), usable(y), checked_radius(eps, x)
            targets = None if targets is None else usable(targets)
            self._check_targets(y, targets)
            if generator is None:
                generator = torch.Generator(x.device).manual_seed(self.seed)
            network = as_module(model)
            attacked = AttackedModel(network, y, targets, Passes(steps))
            # A model that draws random numbers draws them from the attack's seed.
            with attacking(network, self.bn), preserve_random_state(x.device, generator.initial_seed() + 1):
                yield Problem(attacked, x, y, targets, eps, generator)
        spoilt = int(attacked.spoilt)
        if spoilt:
            warnings.warn(
                f"spoilt-gradient: {spoilt} of the {attacked.gradients} gradients that the model gave its images "
                "are not finite, and count as 0, so this attack cannot move them as it should: accuracy under it "
                "overstates robustness",
                MeasurementWarning,
                stacklevel=4,  # past `craft` and its context manager
            )

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
        network = as_module(model)
        with hidden_parts_in_eval(self._examined(network, x, y).hidden):
            x_adv = self.craft(network, x, y, targets=targets, eps=eps, generator=generator)
            return self.judged(network, x_adv, y, targets=targets)

    def judged(self, model: nn.Module, x_adv: Tensor, y: Tensor, *, targets: Tensor | None = None) -> AttackResult:
        """What a model in eval mode makes of images: which are right, and which are a success."""
        network = as_module(model)
        with attacking(network), preserve_random_state(x_adv.device, self.seed), torch.no_grad():
            classes = predicted(output_of(network, x_adv).logits) if len(x_adv) else y
        correct = classes == y
        return AttackResult(x_adv, ~correct if targets is None else classes == targets, correct)

    def _check_targets(self, y: Tensor, targets: Tensor | None) -> None:
        if targets is None:
            return
        if not self.can_target:
            raise UserError(f"{type(self).__name__} has no targeted form; call it without targets")
        if targets.shape != y.shape:
            raise UserError(f"targets of shape {tuple(targets.shape)} came with labels of shape {tuple(y.shape)}")
        if bool((targets == y).any()):
            raise UserError("some targets equal the true labels; draw targets from the wrong classes")


def plain(value: Any) -> Any:
    """A JSON value that says what `value` is."""
    if isinstance(value, Attack):
        return value.parameters()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, partial):
        given = [f"{plain(item)}" for item in value.args]
        given += [f"{key}={plain(item)}" for key, item in value.keywords.items()]
        return f"{plain(value.func)}({', '.join(given)})"
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"
