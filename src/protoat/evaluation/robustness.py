"""Accuracy under attack, image by image, with classes and modes kept apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from protoat.attacks import Attack
from protoat.attacks.base import attacking
from protoat.data import ImageData, split_validation
from protoat.evaluation.statistics import Count, count_by, worst
from protoat.types import as_output

__all__ = ["AttackReport", "Report", "evaluate"]


@dataclass(frozen=True, eq=False, repr=False)
class AttackReport:
    """What one attack leaves standing.

    Attributes:
        count: all images.
        per_class, per_mode: the same for each class and mode that has images, by name.
        parameters: everything that defines the attack.
        correct_mask: (N,) bool on the CPU, each image in the order of the data.
        seconds: time the measurement took.
    """

    count: Count
    per_class: dict[str, Count]
    per_mode: dict[str, Count]
    parameters: dict[str, Any]
    correct_mask: Tensor
    seconds: float

    @property
    def accuracy(self) -> float:
        """Fraction of the images that stay right."""
        return self.count.accuracy

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return self.count.interval

    @property
    def worst_class(self) -> tuple[str, Count]:
        """The class with the lowest accuracy."""
        return worst(self.per_class)

    @property
    def worst_mode(self) -> tuple[str, Count]:
        """The mode with the lowest accuracy."""
        return worst(self.per_mode)

    @property
    def images_per_second(self) -> float:
        """Speed of the measurement."""
        return self.count.total / self.seconds

    def to_json(self) -> dict[str, Any]:
        """Counts and parameters as JSON values, and one character for each image: ``1`` where it stays right."""
        groups = {"per_class": self.per_class, "per_mode": self.per_mode}
        return {
            **self.count._asdict(),
            **{key: {name: count._asdict() for name, count in group.items()} for key, group in groups.items()},
            "parameters": self.parameters,
            "seconds": round(self.seconds, 3),
            "outcomes": "".join("1" if right else "0" for right in self.correct_mask.tolist()),
        }


@dataclass(frozen=True)
class Report:
    """An `AttackReport` for each attack, by name, on the same images."""

    attacks: dict[str, AttackReport]

    def __getitem__(self, name: str) -> AttackReport:
        return self.attacks[name]

    def to_json(self) -> dict[str, Any]:
        """``{"attacks": {name: {"correct", "total", "per_class", "per_mode", "parameters", ...}}}``."""
        return {"attacks": {name: report.to_json() for name, report in self.attacks.items()}}


def evaluate(
    model: nn.Module,
    data: ImageData,
    attacks: Mapping[str, Attack | None],
    *,
    batch_size: int = 256,
    limit: int | None = None,
    device: torch.device | str | None = None,
    advance: Callable[[str, int], None] | None = None,
) -> Report:
    """Measures a model under several attacks on the same images.

    Model, gradients and global random state are afterwards as before. Each attack has one generator for all batches,
    seeded with ``attack.seed``, so a measurement repeats exactly for the same batch size.

    Args:
        model: images in [0, 1] -> `Output` or logits; measured with batch norm in eval mode.
        data: test images with classes and modes.
        attacks: by name; None measures clean images.
        batch_size: images attacked at once.
        limit: measure this many images only, a share of each mode chosen by a fixed seed; default all.
        device: where the model is moved and measured; default where it is.
        advance: called after each batch with the attack's name and the number of images.

    Raises:
        ValueError: no attacks or no images, a batch size or limit below 1, a model whose logits do not fit the classes.

    >>> from protoat.data import Digits
    >>> from protoat.types import Linf
    >>> from protoat.attacks import PGD
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> report = evaluate(net, Digits().load("test"), {"clean": None, "pgd2": PGD(Linf(0.1), steps=2)}, limit=100)
    >>> report["pgd2"].accuracy <= report["clean"].accuracy
    True
    """
    if not isinstance(data, ImageData):
        raise TypeError(f"data is a {type(data).__name__}, expected protoat.data.ImageData")
    if not attacks:
        raise ValueError("there is no attack to measure; pass {'clean': None} for clean accuracy")
    if batch_size < 1 or (limit is not None and limit < 1):
        raise ValueError(f"batch_size={batch_size} and limit={limit} must be at least 1")
    if limit is not None and limit < len(data):
        data = split_validation(data, limit, seed=0)[1]
    if not len(data):
        raise ValueError("the data holds no images")
    where = _device_of(model) if device is None else torch.device(device)
    model.to(where)
    _check_classes(model, data, where)
    reports = {}
    for name, attack in attacks.items():
        started = time.perf_counter()
        parts = []
        for correct in _outcomes(model, data, attack, batch_size, where):
            parts.append(correct)
            if advance is not None:
                advance(name, len(correct))
        reports[name] = _report(data, attack, torch.cat(parts), time.perf_counter() - started)
    return Report(reports)


def _device_of(model: nn.Module) -> torch.device:
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def _check_classes(model: nn.Module, data: ImageData, device: torch.device) -> None:
    classes = _logits(model, data.images[:1].to(device).float() / 255).shape[1]
    if classes != data.num_classes:
        raise ValueError(f"the model has {classes} classes and the data {data.num_classes}")


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    with attacking(model), torch.no_grad():
        return as_output(model(x)).logits


def _outcomes(
    model: nn.Module, data: ImageData, attack: Attack | None, batch_size: int, device: torch.device
) -> Iterator[Tensor]:
    """Whether the model stays right, batch by batch, (B,) bool on the CPU."""
    generator = torch.Generator(device).manual_seed(0 if attack is None else attack.seed)
    for images, labels in zip(data.images.split(batch_size), data.labels.split(batch_size), strict=True):
        x, y = images.to(device).float() / 255, labels.to(device)
        if attack is None:
            yield (_logits(model, x).argmax(1) == y).cpu()
        else:
            yield attack(model, x, y, generator=generator).correct.cpu()


def _report(data: ImageData, attack: Attack | None, correct: Tensor, seconds: float) -> AttackReport:
    return AttackReport(
        Count(int(correct.sum()), len(correct)),
        count_by(correct, data.labels.cpu(), data.class_names),
        count_by(correct, data.modes.cpu(), data.mode_names),
        {"attack": None} if attack is None else attack.parameters(),
        correct,
        seconds,
    )
