"""Lint of a measurement: images, model, budget and attacks that do not fit each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from protoat.attacks import Attack
from protoat.attacks.examination import Examination, Finding, examine
from protoat.data import ImageData, ImageLoader
from protoat.data.batch_format import float_type
from protoat.data.given import LabelledImages, as_image_data, read_images
from protoat.errors import UserError
from protoat.evaluation.attack_names import Attacks, named_attacks
from protoat.evaluation.behaviour import eval_logits, unlike_eval_mode
from protoat.evaluation.micro_batches import MicroBatched
from protoat.evaluation.order import fair_order, spread
from protoat.evaluation.statistics import Count, Paired
from protoat.functional.forward import as_module, device_of, predicted
from protoat.functional.hidden import hidden_parts_in_eval
from protoat.functional.images import ROUNDING, unit_pixels
from protoat.functional.precision import float_types
from protoat.threats import ThreatModel


def lint(
    model: nn.Module | Callable[[Tensor], Any],
    data: LabelledImages,
    threat: ThreatModel,
    attacks: Attacks,
    *,
    targets: Tensor | None = None,
    images: int = 128,
    pixels_known: bool = False,
) -> list[Finding]:
    """Looks for the mistakes that most often make a robustness number wrong; a few forwards and a backward, no attack.

    Model, gradients and global random state are afterwards as before.

    Args:
        model: images in [0, 1] -> `Output` or logits.
        data: test images in any form that `protoat.evaluate` takes; floats outside [0, 1] are a finding here.
        threat: norm and radius, also of the attacks that are given by name.
        attacks: see `protoat.evaluate`.
        targets: (N,) classes that targeted attacks are to reach, where they are given and not drawn.
        images: forwarded at most, a share of each mode.
        pixels_known: the model was trained on pixels as they come here, so it is not asked whether it wants others.

    Raises:
        ValueError: no images.

    >>> from protoat.data import Digits
    >>> from protoat.threats import Linf
    >>> _ = torch.manual_seed(0)  # else such a network is sometimes right more often than chance
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    >>> [found.code for found in lint(net, Digits().load("test"), Linf(0.3), "pgd10/0.01")]
    ['chance', 'short-reach']
    """
    network = MicroBatched(as_module(model))
    where = device_of(network)
    pixels, labels, rows = _some_of(data, images)
    pixels, y, taken = pixels[rows].to(where), labels[rows].to(where), float_types(network)
    x = unit_pixels(pixels, None if pixels.dtype in taken else float_type(taken))
    named = named_attacks(attacks or "clean", threat)
    found = network.retrying(lambda: examine(network, x), len(x))
    with hidden_parts_in_eval(found.hidden):
        case = _Case(network, x, y, found, eval_logits(network, x), labels, threat, named, targets, pixels_known)
        return [finding for rule in _RULES for finding in rule(case)]


def _some_of(data: LabelledImages, images: int) -> tuple[Tensor, Tensor, Tensor]:
    """All images, all labels, and the rows of at most so many, a share of each mode or class."""
    if isinstance(data, ImageData | ImageLoader):
        data = as_image_data(data)
        pixels, labels = data.images, data.labels
    elif isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        pixels, labels = data  # as an attack would get them: what is wrong with the labels is a finding
    else:
        given = read_images(data)
        pixels, labels = given.images, given.labels
    if not len(labels):
        raise UserError("the data holds no images")
    kinds = labels.clamp_min(0)
    order = fair_order(data) if isinstance(data, ImageData) else spread(kinds, 1 + int(kinds.max()))
    return pixels, labels, order[:images].sort().values


@dataclass(frozen=True)
class _Case:
    """What the rules look at: a part of the images with labels and logits, and all labels."""

    model: MicroBatched
    x: Tensor
    y: Tensor
    found: Examination
    logits: Tensor
    labels: Tensor
    threat: ThreatModel
    attacks: Mapping[str, Attack | None]
    targets: Tensor | None
    pixels_known: bool

    @property
    def classes(self) -> int:
        return self.logits.shape[1]


def _pixels(case: _Case) -> Iterator[Finding]:
    low, high = (float(value) for value in torch.aminmax(case.x))
    if low < -ROUNDING or high > 1 + ROUNDING:
        cause = "they look normalised" if low < 0 else "they look like 8-bit pixels, to be divided by 255"
        todo = "give attacks pixels in [0, 1] and put normalisation inside the model (protoat.Normalize)"
        yield Finding("pixels", "error", f"images lie in [{low:.7g}, {high:.7g}] and not in [0, 1]: {cause}; {todo}")
    elif high < 1.5 / 255:
        text = "no pixel is brighter than 1 of 255: images in [0, 1] became integers; multiply them by 255 first"
        yield Finding("pixels", "error", text)


def _labels(case: _Case) -> Iterator[Finding]:
    low, high = int(case.labels.min()), int(case.labels.max())
    if low < 0 or high >= case.classes:
        text = f"labels run from {low} to {high}, and the model has {case.classes} classes, from 0; regroup the data"
        yield Finding("labels", "error", text)


def _targets(case: _Case) -> Iterator[Finding]:
    equal = 0 if case.targets is None else int((case.targets.cpu() == case.labels.cpu()).sum())
    if equal:
        text = f"{equal} targets equal the true labels, which no attack can miss; draw them from the wrong classes"
        yield Finding("targets", "error", text)


def _answers(case: _Case) -> Iterator[Finding]:
    """What the examination before every measurement finds, here on more images, and whether the mode matters."""
    yield from case.found.findings
    if {"finite", "random", "batch"} & {finding.code for finding in case.found.findings}:
        return
    if share := float(unlike_eval_mode(case.model, case.x).float().mean()):
        text = (
            f"the model is in train mode, in which {share:.0%} of its answers are others: dropout and batch norm let "
            "chance and the batch in; call model.eval() (protoat measures and attacks in eval mode all the same)"
        )
        yield Finding("train-mode", "warning", text)


def _preparation(case: _Case) -> Iterator[Finding]:
    """Whether the model wants other pixels than it gets: it would then be right far more often with these.

    One that has not learned enough gains from standardised pixels too, so it is certain only where under a quarter of
    the mistakes is left.
    """
    right = predicted(case.logits) == case.y
    other_pixels = () if case.pixels_known else _other_pixels(case.x)
    named = [("", right), *((how, predicted(eval_logits(case.model, x)) == case.y) for how, x in other_pixels)]
    how, best = max(named, key=lambda item: int(item[1].sum()))
    pair, accuracy = Paired.of(right, best), float(right.float().mean())
    if pair.difference > 0.1 and pair.p_above < 0.001:
        certain = 4 * int((~best).sum()) < int((~right).sum())
        text = (
            f"the model is right on {accuracy:.0%} of clean images as they are and on {accuracy + pair.difference:.0%} "
            f"{how}: it {'expects' if certain else 'may expect'} that in front of it; then put it inside the model "
            "(protoat.Normalize)"
        )
        yield Finding("preparation", "error" if certain else "warning", text)
        return
    clean = Count(int(right.sum()), len(right))
    chance = float(torch.bincount(case.y.clamp_min(0)).max() / len(right))  # always saying the commonest label
    if clean.interval[0] <= chance:  # the interval that tables show beside it
        text = (
            f"the model is right on {clean.correct} of {clean.total} clean images that were looked at, "
            f"{clean.in_percent} %, which is not shown to be above chance ({chance:.0%}): "
            "are these its weights?"
        )
        yield Finding("chance", "warning", text)


def _other_pixels(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    std, mean = torch.std_mean(x, (0, 2, 3), keepdim=True)
    yield "with the mean and deviation of these images taken out", (x - mean) / std.clamp_min(1e-3)
    yield "in [-1, 1]", 2 * x - 1
    yield "in [0, 255]", 255 * x
    if x.shape[1] == 3:
        mean, std = (x.new_tensor(value).view(3, 1, 1) for value in _IMAGENET)
        yield "with ImageNet's mean and deviation taken out", (x - mean) / std


def _radius(case: _Case) -> Iterator[Finding]:
    eps, norm, x = case.threat.eps, case.threat.geometry, case.x.flatten(1)
    others = torch.cdist(x, x, p=norm.order).masked_fill(case.y[:, None] == case.y, torch.inf).amin(1)
    reach = float((torch.minimum(others, (x - 0.5).norm(norm.order, dim=1)) <= eps).float().mean())
    if reach > 0.01:
        text = (
            f"within {eps:g} ({norm.name}) of {reach:.0%} of the images lies the grey image or one of another class, "
            "so that no model can be right there; is the radius in the unit of pixels in [0, 1]?"
        )
        yield Finding("radius", "warning", text)
    if (levels := norm.levels(eps)) is None:
        return
    if levels < 0.5:
        text = f"eps {eps:g} is less than half a grey level of 8-bit images; was it divided by 255 twice?"
        yield Finding("radius", "warning", text)
    whole = round(levels)
    if 1 <= whole <= 16 and 1e-3 < abs(levels - whole) < 0.15:
        text = f"eps {eps:g} is {levels:.3g}/255; published numbers are at {whole}/255, so write that to compare"
        yield Finding("radius", "note", text)


def reach(attacks: Mapping[str, Attack | None]) -> Iterator[Finding]:
    """Steps that are too short to cross the ball, or too long to stay in it.

    >>> from protoat.attacks import PGD
    >>> from protoat.threats import Linf
    >>> [found.code for found in reach({"pgd10": PGD(Linf(0.3), steps=10, step_size=0.01)})]
    ['short-reach']
    """
    for name, own in _parameters(attacks):
        if not {"steps", "step_size", "eps"} <= own.keys():
            continue
        steps, size, eps = own["steps"], own["step_size"], own["eps"]
        if steps * size < eps * (1 - 1e-6):
            text = (
                f"{name}: {steps} steps of {size:.4g} move no pixel by more than {steps * size:.4g}, and eps is "
                f"{eps:.4g}; raise step_size, whose default is 2.5 * eps / steps = {2.5 * eps / steps:.4g}"
            )
            yield Finding("short-reach", "warning", text)
        elif size > 2 * eps * (1 + 1e-6):
            text = f"{name}: a step of {size:.4g} leaps over the whole ball of radius {eps:.4g}; lower step_size"
            yield Finding("long-step", "warning", text)


def _few_classes(case: _Case) -> Iterator[Finding]:
    kinds = {own.get("attack") for _, own in _parameters(case.attacks)}
    if case.classes == 2:
        text = (
            "two classes: with the sign gradient of cross-entropy, targeted and untargeted attacks are the same "
            "attack, so the one confirms nothing about the other"
        )
        yield Finding("two-classes", "note", text)
    if case.classes < 10 and "AutoAttack" in kinds:
        text = (
            f"{case.classes} classes: AutoAttack is the composition aa-k{case.classes}; do not compare it with standard"
        )
        yield Finding("autoattack", "note", text)


def _parameters(attacks: Mapping[str, Attack | None]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Parameters of each attack and, where it runs others, of these; under the name it was given."""

    def walk(name: str, own: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        yield name, own
        for value in own.values():
            if isinstance(value, Mapping):
                yield from walk(name, value)

    for name, attack in attacks.items():
        if attack is not None:
            yield from walk(name, attack.parameters())


_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
_RULES: tuple[Callable[[_Case], Iterator[Finding]], ...] = (
    _pixels,
    _labels,
    _targets,
    _answers,
    _preparation,
    _radius,
    lambda case: reach(case.attacks),
    _few_classes,
)
