"""Networks of a recipe: as it builds them, as a run has trained them, and one run's weights in another's network."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from protoat.errors import UserError
from protoat.models import DualBatchNorm, freeze_all_but, keep_branch, linear_head
from protoat.models.dual_bn import Branch
from protoat.models.transfer import transfer
from protoat.pretraining import ACL, Contrastive
from protoat.pretraining.public import of_branch, torchvision_names
from protoat.pretraining.weights_file import read_tensors
from protoat.recipes.initialise import Initialise
from protoat.recipes.reading import recipe_of_run
from protoat.recipes.recipe import Recipe
from protoat.runs.store import StoredRun, read_run
from protoat.training import load_weights
from protoat.training.exported import restore

__all__ = ["Encoder", "build_network", "hand_over", "load_encoder"]

logger = logging.getLogger(__name__)


class Encoder(NamedTuple):
    """The network of a run.

    Attributes:
        model: in eval mode, with one set of batch norm. The head of a pre-trained one has learned nothing.
        recipe: of the run.
        path: the file its weights come from.
        branch: whose batch norm it has, None where the run has one set only.
    """

    model: nn.Module
    recipe: Recipe
    path: Path
    branch: Branch | None


def build_network(recipe: Recipe, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """The recipe's network for images of `shape` (C, H, W).

    Raises:
        ValueError: images that are no squares, or what the user's own code raises.
    """
    channels, height, width = shape
    if height != width:
        raise UserError(f"images are {height}x{width}; models expect squares, so write data.image_size")
    try:
        return recipe.model(num_classes, channels, height)
    except Exception as error:
        if not recipe.trust:
            raise
        raise UserError(f"the model cannot be built, it raised {type(error).__name__}: {error}") from error


def load_encoder(
    folder: Path | str,
    *,
    weights: Literal["best", "last"] | None = None,
    branch: Branch | None = None,
    trust: Collection[str] = (),
) -> Encoder:
    """The network of a run, pre-trained or trained; only safetensors, YAML and JSON are read, never a pickle.

    Args:
        folder: of the run.
        weights: ``"best"`` on held-out images or ``"last"``; None takes the best where there is one.
        branch: whose batch norm a network with two sets keeps; None takes the one of attacked images.
        trust: code of your own that the recipe may name, such as ``["mymodels.Net"]``.

    Raises:
        ValueError: not a run folder, no weights yet, weights of another architecture, a branch that is not there, or a
            recipe that names code which is neither protoat's nor trusted.
    """
    run = read_run(folder)
    recipe = recipe_of_run(run.path, trust=trust)
    path = _weights_file(run, weights)
    model = build_network(recipe, run.fact("num_classes"), tuple(run.fact("shape")))
    method = recipe.method(recipe.threat)
    if isinstance(method, Contrastive):
        model = method.encoder(model)
    load_weights(path, model)
    if any(isinstance(layer, DualBatchNorm) for layer in model.modules()):
        branch = branch or ("adv" if not isinstance(method, ACL) else method.branch)
        model = keep_branch(model, branch)
    elif branch is not None:
        raise UserError(f"{run.path} has one set of batch norm, so branch={branch!r} is not there; leave it out")
    return Encoder(model.requires_grad_(True).eval(), recipe, path, branch)


def _weights_file(run: StoredRun, weights: Literal["best", "last"] | None) -> Path:
    names = [weights] if weights else ["best", "last"]
    for name in names:
        if os.path.lexists(path := run.path / f"{name}.safetensors"):
            restore(path)
            return path
    raise UserError(f"{run.path} has no {' or '.join(names)} weights yet; train it to the end: protoat train")


def hand_over(model: nn.Module, choice: Initialise) -> tuple[nn.Module, dict[str, Any]]:
    """`model` with the weights that `choice` names, frozen where they shall stay, and a record of what matched.

    Raises:
        ValueError: see `load_encoder` and `read_tensors`; or nothing matches.
    """
    file, branch, head = choice.file, choice.branch, linear_head(model)
    heads = [f"{name}.{key}" for name, part in model.named_modules() if part is head for key in head.state_dict()]
    if choice.run is not None:
        with torch.random.fork_rng():  # what is drawn next does not depend on this choice
            encoder = load_encoder(choice.run, branch=branch)
        tensors, branch = encoder.model.state_dict(), encoder.branch
        if choice.head != "loaded":
            tensors = {name: value for name, value in tensors.items() if name not in heads}
    else:
        tensors, branch = of_branch(read_tensors(file), branch)
        tensors = torchvision_names(tensors)
    try:
        report = transfer(tensors, model, leave=() if choice.head == "loaded" else heads)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    if choice.head == "zero":
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
    logger.info("%s: %s", file, report)
    record = {"file": str(file), "sha256": choice.sha256, "branch": branch, **vars(report)}
    return freeze_all_but(model, choice.finetune), record
