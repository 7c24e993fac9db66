"""Times a few steps of a run and tells what it would do; nothing is written."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from protoat.data import ImageData, ImageLoader
from protoat.recipes.recipe import Recipe
from protoat.runs.build import Parts, build
from protoat.runs.threads import on_fitting_threads
from protoat.runs.train import first_images, fitting, levers, memory_format_of, precision_of, training_loader
from protoat.training import make_accelerator
from protoat.training.validation import Validation

_STEPS = 4  # batches that are trained on, of which the first warms up
_VALIDATED = 256  # images at most


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        about: images, network, method and device, in words.
        epochs: of the whole run.
        batches: of an epoch.
        updates: optimizer steps of the whole run.
        batch_seconds: that a batch takes here.
        validation_seconds: that a validation takes here; 0 where nothing is held out.
        validations: of the whole run.
    """

    about: dict[str, str]
    epochs: int
    batches: int
    updates: int
    batch_seconds: float
    validation_seconds: float
    validations: int

    @property
    def total_seconds(self) -> float:
        """About what the whole run takes; checkpoints, averages of weights and discovered modes come on top."""
        return self.epochs * self.batches * self.batch_seconds + self.validations * self.validation_seconds


def plan(recipe: Recipe) -> Plan:
    """Builds a run and times a few of its steps and a part of a validation.

    Raises:
        ValueError, DataNotFoundError: see `protoat.runs.train.train`.
        NonFiniteLossError: a term of the loss is no number.
    """
    parts = build(recipe)
    accelerator = make_accelerator(precision=precision_of(recipe), seed=recipe.seed)
    loader = _Timed(training_loader(recipe, parts, accelerator))
    layout = memory_format_of(recipe, parts.model, accelerator.device)
    validations = 0 if parts.validation is None else math.ceil(recipe.epochs / recipe.validate_every)
    with on_fitting_threads(parts.model, first_images(recipe, parts, layout), accelerator):
        with suppress(_Enough):
            fitting(recipe, parts, loader, accelerator, layout)(progress=False, loggers=[])
        return Plan(
            _about(recipe, parts, levers(recipe, accelerator, layout)),
            recipe.epochs,
            len(loader),
            recipe.epochs * len(loader) * parts.objective.updates_per_batch,
            loader.seconds,
            0.0 if parts.validation is None else _validation(parts, parts.validation),
            validations,
        )


class _Enough(BaseException):
    """Thrown once enough steps have been timed; no `Exception`, so that nothing on the way takes it for an error."""


class _Timed(ImageLoader):
    """The same batches, up to the end of an epoch or of the steps that are timed."""

    def __init__(self, loader: ImageLoader) -> None:
        vars(self).update(vars(loader))
        self.times: list[float] = []

    def iterate(self, first_batch: int = 0) -> Iterator[Any]:
        self.times = []
        for batch in super().iterate(first_batch):
            self.times.append(time.perf_counter())
            if len(self.times) > _STEPS:
                raise _Enough
            yield batch
        self.times.append(time.perf_counter())
        raise _Enough

    @property
    def seconds(self) -> float:
        """Median time of a batch. The first, which warms up, is left out if there are others."""
        steps = [after - before for before, after in zip(self.times, self.times[1:], strict=False)]
        return median(steps[1:] or steps)


def _validation(parts: Parts, held_out: ImageData) -> float:
    part = held_out.subset(torch.arange(min(len(held_out), _VALIDATED)))
    device = next(parts.model.parameters()).device
    measure = Validation(part, parts.validation_attack, device=device)
    started = time.perf_counter()
    measure(parts.model)
    return (time.perf_counter() - started) * len(held_out) / len(part)


def _about(recipe: Recipe, parts: Parts, how: str) -> dict[str, str]:
    images, objective = parts.train, parts.objective
    size = "x".join(map(str, images.shape))
    modes = f" with {len(images.mode_names)} modes" if images.mode_names != images.class_names else ""
    held_out = 0 if parts.validation is None else len(parts.validation)
    weights = sum(parameter.numel() for parameter in parts.model.parameters())
    return {
        "images": f"{len(images)} of {size} in {images.num_classes} classes{modes}; {held_out} held out",
        "network": f"{type(parts.model).__name__}, {weights:,} weights",
        "method": f"{type(objective.method).__name__}, {recipe.threat}",
        "regularizer": "none" if objective.regularizer is None else type(objective.regularizer).__name__,
        "optimizer": f"{type(parts.optimizer).__name__}, learning rate {parts.optimizer.defaults['lr']:g}",
        "here": how,
    }
