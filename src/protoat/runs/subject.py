"""A model to be evaluated, of a run or any other, with its test images and threat model."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from protoat.attacks import PrototypeClassifier
from protoat.data import Groups, ImageData, Inventory, Source, regroup
from protoat.errors import UserError
from protoat.evaluation.record import Judged
from protoat.models import MultiPrototypeHead
from protoat.models.normalize import normalization
from protoat.recipes.recipe import Recipe
from protoat.regularizers import Regularizer, SoftTriple
from protoat.runs.any_model import build_model
from protoat.threats import ThreatModel


@dataclass(frozen=True)
class Subject:
    """A model to be judged, with the images and the threat model to judge it by.

    Attributes:
        name: what reports call it.
        model: images in [0, 1] -> `Output` or logits, in eval mode, on the CPU.
        data: the whole test split, regrouped.
        threat: norm and radius.
        regularizer: the run's regularizer with what it has learned, or None.
        folder: where records go.
        identity: weights file, SHA-256 of the weights, name and SHA-256 of the data: what an old record must match.
        named: what names it on a command line; None of a model that is no run. Who replaces another field sees to it.
        inventory: what the data set holds, leaves out and holds twice; None where it is not known.
    """

    name: str
    model: nn.Module
    data: ImageData
    threat: ThreatModel
    regularizer: Regularizer | None
    folder: Path
    identity: dict[str, Any]
    named: tuple[str, ...] | None = None
    inventory: Inventory | None = None

    def judged(self, images: int) -> Judged:
        """What a record of so many of its images is of."""
        return Judged.from_json({**self.identity, "threat": self.threat.to_json(), "images": images})

    def command(self, verb: str, *more: str) -> str:
        """A command of ours about this very subject, for messages that say what to do."""
        if self.named is None:
            return f"{shlex.join(['protoat', verb, *more])}, with the options that name it here"
        return shlex.join(["protoat", verb, *self.named, *more])


def blank_subject(name: str, recipe: Recipe, classes: int, regularizer: Regularizer | None) -> Subject:
    """What attacks are called on a run of a recipe, and what they are, needs no more: neither weights nor images."""
    images = torch.zeros(classes, 1, 1, 1, dtype=torch.uint8)
    data = ImageData(images, torch.arange(classes), tuple(map(str, range(classes))))
    threat = recipe.evaluation_threat or recipe.threat
    # How many prototypes a head has changes no attack's name or parameters.
    several = recipe.head is not None or getattr(recipe.modes, "keywords", {}).get("mode_weight", 0) != 0
    model = MultiPrototypeHead(2, classes, prototypes_per_class=1) if several else nn.Identity()
    return Subject(name, model, data, threat, regularizer, Path(name), {})


def with_prototype_head(subject: Subject, *, folder: Path | None = None) -> Subject:
    """The same subject where the nearest class by prototypes is predicted.

    Args:
        subject: a run with SoftTriple.
        folder: where records go; default ``prototypes`` below the folder of the subject.

    Raises:
        ValueError: it was trained without SoftTriple.
    """
    metric = subject.regularizer
    if not isinstance(metric, SoftTriple):
        raise UserError(f"{subject.name} has no prototypes to predict by: it was not trained with SoftTriple")
    return replace(
        subject,
        name=f"{subject.name}, by prototypes",
        model=PrototypeClassifier(
            subject.model,
            metric.prototypes,
            metric.active,
            gamma=metric.gamma,
            scale=metric.scale,
            projection=metric.project,
        ).eval(),
        folder=folder or subject.folder / "prototypes",
        identity=subject.identity | {"head": "prototypes"},
        named=subject.named and (*subject.named, "--head", "prototypes"),
    )


def subject_of_model(
    spec: str,
    *,
    weights: Path | str | None = None,
    data: Source,
    groups: Groups | None = None,
    threat: ThreatModel,
    folder: Path | str,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Subject:
    """Any model, with any data.

    Args:
        spec, weights: see `protoat.runs.any_model.build_model`.
        data: its test split is used.
        groups: see `protoat.data.regroup`.
        threat: norm and radius.
        folder: where records go.
        mean, std: normalisation put in front of the model, since its pixels will come in [0, 1]; pretrained models
            bring their own.

    Raises:
        ValueError: a model or weights that cannot be had or do not fit.
        DataNotFoundError: the test images are not there.
    """
    images = data.load("test")
    images = images if groups is None else regroup(images, groups)
    built = build_model(spec, images, weights=weights)
    mean, std = mean or built.mean, std or built.std
    model = built.model if mean is None and std is None else nn.Sequential(normalization(mean, std), built.model)
    identity = identity_of(built.weights, built.sha256, data, images)
    if mean is not None or std is not None:
        identity |= {"mean": mean and list(mean), "std": std and list(std)}
    identity = {"model": spec, **identity}
    inventory = data.inventory()
    return Subject(spec, model.eval(), images, threat, None, Path(folder), identity, inventory=inventory)


def identity_of(weights: str, sha256_of_weights: str, source: Source, data: ImageData) -> dict[str, Any]:
    """What a record says of the weights and the images that it is of."""
    return {
        "weights": weights,
        "sha256": sha256_of_weights,
        "data": f"{source.name} test",
        "data_sha256": data.digest(),
    }
