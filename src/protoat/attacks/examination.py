"""Cheap checks of a model before any measurement: finite logits, gradients, batch independence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from protoat.attacks.attacked_model import check_logits, leads
from protoat.attacks.mode import attacking
from protoat.errors import NoGradientError
from protoat.functional.forward import output_of, predicted
from protoat.functional.gradients import gradient_of
from protoat.functional.hidden import hidden_modules, hidden_parts_in_eval
from protoat.functional.losses import STEEP
from protoat.functional.precision import at_least_float32
from protoat.functional.preserve import preserve_random_state
from protoat.types import Output

Severity = Literal["error", "warning", "note"]


_OF_GRADIENTS = ("no-gradient", "spoilt-gradient", "zero-gradient", "saturated", "probabilities")


class MeasurementWarning(RuntimeWarning):
    """What makes a number about a model mean less than it says; its text begins with the code of the finding."""


class Finding(NamedTuple):
    """Something to know before a measurement.

    Attributes:
        code: short name of the rule.
        severity: ``"error"`` makes the numbers meaningless, ``"warning"`` probably does, ``"note"`` limits what they
            can be compared with.
        text: one line: what was found, and what to do.
    """

    code: str
    severity: Severity
    text: str


@dataclass(frozen=True)
class Examination:
    """What a look at a model found.

    Attributes:
        findings: in the order of their weight.
        cut: why no gradient comes from the logits back to the images; empty where one does.
        output: of the images looked at, detached.
        hidden: parts that the model's ``eval()`` does not reach, by where they were found.
    """

    findings: tuple[Finding, ...]
    cut: str
    output: Output
    hidden: dict[str, nn.Module]

    @property
    def differentiable(self) -> bool:
        """Whether gradients come from the logits back to the images."""
        return not self.cut

    def of_attack(self, follows_gradients: bool) -> list[Finding]:
        """What matters to one attack."""
        return [found for found in self.findings if follows_gradients or found.code not in _OF_GRADIENTS]


NOTHING_FOUND = Examination((), "", Output(torch.empty(0, 0), torch.empty(0, 0)), {})
_SEED = 20_170_619  # of what a random model draws while it is looked at
_examined = ContextVar("examined", default=False)


@contextmanager
def examined() -> Iterator[None]:
    """Inside, attacks take the model as examined, as a measurement of many batches does once."""
    token = _examined.set(True)
    try:
        yield
    finally:
        _examined.reset(token)


def is_examined() -> bool:
    """Whether the caller has examined the model."""
    return _examined.get()


def examine(model: nn.Module, x: Tensor, *, num_classes: int | None = None, gradients: bool = True) -> Examination:
    """Looks at a model in eval mode: two forwards and a backward of the images; nothing is left changed.

    Args:
        model: images -> `Output` or logits.
        x: (B, ...) images, at least one; four are enough to see what holds for all.
        num_classes: how many logits there should be; None takes any number.
        gradients: look at these too; without them the model is not asked for any.

    Raises:
        ValueError: what comes back are no logits of these classes. Errors of the model itself pass through.

    >>> [found.code for found in examine(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(4, 1, 2, 2)).findings]
    []
    >>> [found.code for found in examine(nn.Sequential(nn.Flatten(), nn.Softmax(1)), torch.rand(4, 1, 2, 2)).findings]
    ['probabilities']
    """
    with torch.inference_mode(False), torch.set_grad_enabled(gradients):
        x = x.clone().detach()
        hidden = hidden_modules(model)
        unreached = [*_unreached(hidden)]
        with attacking(model), hidden_parts_in_eval(hidden), preserve_random_state(x.device, _SEED):
            # Bound to one batch of an even size: the second forward shows the first half twice.
            images = torch.cat([x, 1 - x]) if len(x) == 1 else x[: len(x) // 2 * 2]
            leaf = images.clone().requires_grad_(gradients)
            raw = output_of(model, leaf)
            check_logits(raw.logits, len(images), num_classes)
            logits = at_least_float32(raw.logits)
            seen = logits.detach()
            gradient, cut = _slope(logits, leaf) if gradients else (None, "")
            findings = [
                *unreached,
                *_unsaid(seen),
                *_fickle(model, images, seen),
                *([] if gradient is None else _flat(gradient, cut, seen)),
                *_squashed(seen),
            ]
    return Examination(tuple(findings), cut, Output(seen, raw.embedding.detach()), hidden)


def _slope(logits: Tensor, leaf: Tensor) -> tuple[Tensor, str]:
    """Gradient of the lead of the likeliest class, whose slope never vanishes by itself; or why there is none."""
    # Of the class that the model says, as labels may be no classes.
    try:
        return gradient_of(leads(logits).sum(), leaf).flatten(1), ""
    except NoGradientError as error:
        return torch.zeros_like(leaf).flatten(1), error.reason


def _unreached(hidden: dict[str, nn.Module]) -> Iterable[Finding]:
    training = {
        place: type(part).__name__
        for place, part in hidden.items()
        if any(getattr(module, "training", False) and _has_modes(module) for module in part.modules())
    }
    if training:
        place, kind = next(iter(training.items()))
        more = f" and {len(training) - 1} more" if len(training) > 1 else ""
        text = (
            f"model.eval() does not reach {kind} at {place!r}{more}, which came in train mode; it is put in eval mode "
            "here, but nowhere else: hold it as an attribute, in nn.ModuleList or nn.ModuleDict, or call its eval()"
        )
        yield Finding("unreached", "warning", text)


def _has_modes(module: nn.Module) -> bool:
    """Whether a module of this kind answers otherwise in train mode, or may do so as it is not torch's."""
    kinds = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.RNNBase, nn.MultiheadAttention)
    return isinstance(module, kinds) or not type(module).__module__.startswith("torch.")


def _unsaid(logits: Tensor) -> Iterable[Finding]:
    rows, classes = logits.shape
    if spoilt := int((predicted(logits) < 0).sum()):
        text = (
            f"the model's logits are not finite for {spoilt} of {rows} images, which therefore have no prediction and "
            "count as wrong; look for an overflow, a division by 0, or spoilt weights"
        )
        yield Finding("finite", "error", text)
    elif masked := int((logits == -torch.inf).all(0).sum()):
        text = f"the model's logits of {masked} of {classes} classes are -inf, so these classes are never predicted"
        yield Finding("masked", "note", text)


def _fickle(model: nn.Module, images: Tensor, before: Tensor) -> Iterable[Finding]:
    """The first half of the images once more, twice in one batch: alike there, and as in the batch before."""
    half = len(images) // 2
    with torch.no_grad():
        now = at_least_float32(output_of(model, images[:half].repeat(2, *[1] * (images.dim() - 1))).logits)
    first, twin, known = now[:half], now[half:], before[:half]
    random = differing(first, twin)
    changed = random | differing(first, known)
    if not bool(changed.any()) or not bool((predicted(known) >= 0).any()):
        return
    differ = f"two forwards of one image differ for {float(changed.float().mean()):.0%} of the images"
    draws = getattr(getattr(model, "network", model), "mean_of_draws", None)
    if draws is not None:
        unless = "" if bool(random.any()) else ", unless the model uses batch statistics"
        yield Finding("random", "note", f"{differ}: means over {draws} draws still vary; more draws vary less{unless}")
    elif bool(random.any()):
        text = (
            f"{differ}: the model is random also in eval mode; attack and judge the mean of its logits over many "
            "draws (EOT): protoat.MeanLogits"
        )
        yield Finding("random", "error", text)
    else:
        text = (
            "what the model says of an image changes with the batch, also in eval mode: it uses batch statistics (let "
            "it use running ones), or draws at random once for a batch (judge the mean over draws: protoat.MeanLogits)"
        )
        yield Finding("batch", "error", text)


def _flat(gradient: Tensor, cut: str, logits: Tensor) -> Iterable[Finding]:
    total = len(gradient)
    if cut:
        text = (
            f"no gradient comes from the model's logits back to the image ({cut}), so only attacks without gradients "
            "can run; try square, or transfer from another model"
        )
        yield Finding("no-gradient", "error", text)
        return
    said = predicted(logits) >= 0
    if spoilt := int((~gradient.isfinite().all(1) & said).sum()):
        text = (
            f"the gradient is not finite for {spoilt} of {total} images, whatever the logits are: something overflows, "
            "or is infinitely steep (a root or a norm at 0), so attacks that follow gradients cannot move them"
        )
        yield Finding("spoilt-gradient", "error", text)
    if (flat := int(((gradient == 0).all(1) & said).sum())) > total / 100:
        text = (
            f"the lead of the likeliest class has no gradient for {flat} of {total} images: some part passes none "
            "(rounding, a threshold), so attacks that follow gradients cannot move them; attack with a smooth stand-in "
            "for that part (BPDA), try square, or transfer from another model"
        )
        yield Finding("zero-gradient", "error", text)
    lead = leads(logits)
    steep = (lead > STEEP) & lead.isfinite()
    if count := int(steep.sum()):
        text = (
            f"logits are saturated for {count} of {total} images, where one leads by up to "
            f"{float(lead[steep].max()):.4g}, so that cross-entropy has no gradient in float32; attacks here climb "
            "rescaled logits, those of others overstate robustness"
        )
        yield Finding("saturated", "warning", text)


def _squashed(logits: Tensor) -> Iterable[Finding]:
    if bool(are_probabilities(logits).all()):
        text = "outputs are probabilities, whose gradients vanish where the model is sure; take the softmax off"
        yield Finding("probabilities", "error", text)


def differing(first: Tensor, second: Tensor) -> Tensor:
    """Images, (B,) bool, whose logits differ by more than rounding: 1e-5 of the largest logit.

    >>> differing(torch.tensor([[1.0, 100.0], [2.0, 3.0]]), torch.tensor([[1.0, 100.0001], [2.5, 3.0]]))
    tensor([False,  True])
    """
    usable = first.isfinite() & second.isfinite()
    largest = first.where(usable, 0).abs().max().clamp_min(1)
    apart = (first - second).where(usable, 0).abs().amax(1)
    return (apart > 1e-5 * largest) | (first.isfinite() != second.isfinite()).any(1)


def are_probabilities(logits: Tensor) -> Tensor:
    """Rows, (B,) bool, that are probabilities and no logits: none negative, and they add up to 1.

    >>> are_probabilities(torch.tensor([[0.25, 0.75], [0.25, 0.25]]))
    tensor([ True, False])
    """
    return (logits >= 0).all(1) & ((logits.sum(1) - 1).abs() < 1e-4)
