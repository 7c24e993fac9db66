"""A run: its recipe, weights, metrics and records, read when they are asked for, and once."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import nn

from protoat.data import ImageData, Preprocess
from protoat.data.modes import in_order_of
from protoat.errors import UserError
from protoat.evaluation.predictions import Predictions, predict
from protoat.evaluation.record import Evaluation
from protoat.functional.forward import output_of
from protoat.models import DualBatchNorm, keep_branch
from protoat.models.dual_bn import Branch
from protoat.pretraining import ACL, Contrastive
from protoat.recipes.reading import recipe_from_text
from protoat.recipes.recipe import Recipe
from protoat.regularizers import Regularizer
from protoat.runs.claims import called, find_run, run_folders
from protoat.runs.fingerprint import fingerprint_of_folder
from protoat.runs.images import load_images
from protoat.runs.network import build_network
from protoat.runs.records import RunRecords
from protoat.runs.subject import Subject, identity_of
from protoat.threats import ThreatModel
from protoat.training.weights import Weights, read_weights

if TYPE_CHECKING:
    from protoat.sharing.push import Pushed

logger = logging.getLogger(__name__)

Which = Literal["best", "last"]


class Network(NamedTuple):
    """A network with one set of batch norm, and of which branch that is; None where the run has one set only."""

    model: nn.Module
    branch: Branch | None


class Run(RunRecords):
    """A run folder; nothing is read before it is asked for, and only safetensors, YAML and JSON ever are.

    Args:
        folder: its path; or of a run below ``runs`` the name of its folder, or the digest at the end of that; or
            ``zoo:digits-2``, a run that comes with the package; or ``hf://user/name``, one on the Hugging Face Hub,
            which is fetched into the cache, at the commit or tag of ``hf://user/name@v1`` or else of now.
        trust: code of your own that the recipe may name, such as ``["mymodels.Net"]``; any other is refused.

    Raises:
        ValueError: not a run folder, or several are called so. Each attribute: a file that it needs is damaged.

    >>> Run("/nowhere")
    Traceback (most recent call last):
    protoat.errors.UserError: /nowhere is not a run folder: there is no such folder
    """

    def __init__(self, folder: Path | str, *, trust: Collection[str] = ()) -> None:
        super().__init__(find_run(folder))
        self.trust = tuple(trust)
        self._read: dict[str, Weights] = {}

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe with its objects."""
        return recipe_from_text(self.recipe_text, trust=self.trust, source=self.path / "recipe.yaml")

    @property
    def fingerprint(self) -> str | None:
        """What makes it the same run as another; None where it takes over weights that are not known here."""
        return fingerprint_of_folder(self.path)

    @property
    def threat(self) -> ThreatModel:
        """What it is measured under."""
        return self.recipe.evaluation_threat or self.recipe.threat

    def subject(self, which: Which | None = None) -> Subject:
        """The trained model with the test images and the threat model of its recipe, as it is judged.

        Raises:
            ValueError: see `classifier`; or data with other classes than those of training.
            DataNotFoundError: the test images are not there.
        """
        self.check()  # a damaged record is said before the work
        model, weights, data = self.classifier(which), self.weights(which), self.test_images
        name, trusted = called(self.path), [word for each in self.recipe.trust for word in ("--trust", each)]
        return Subject(
            name,
            model,
            data,
            self.threat,
            self.regularizer(model, which),
            self.path,
            identity_of(weights.path.name, weights.sha256, self.recipe.data, data),
            (name, *(() if which is None else ("--weights", which)), *trusted),
            self.recipe.data.inventory(),
        )

    @property
    def preprocess(self) -> Preprocess:
        """From a picture of any size and kind to what the network takes, as in training."""
        return Preprocess(tuple(self.fact("shape")), self.recipe.data.background or "white")

    def predict(self, images: Any, *, which: Which | None = None, batch_size: int = 256) -> Predictions:
        """Classes, probabilities and nearest prototypes of pictures.

        Args:
            images: paths, bytes of files, PIL pictures, NumPy arrays or tensors; one, or several in a list. What is
                done to them is said in `protoat.Preprocess`.
            which: see `weights`.
            batch_size: images at once.

        Raises:
            ValueError: see `classifier` and `protoat.predict`.
        """
        model = self.model if which is None else self.classifier(which)
        return predict(
            model,
            images,
            preprocess=self.preprocess,
            class_names=self.class_names,
            regularizer=self.regularizer(model, which),
            prototype_modes=self.facts.get("prototype_modes"),
            batch_size=batch_size,
        )

    @cached_property
    def test_images(self) -> ImageData:
        """The whole test split, regrouped, with the classes in the order of training."""
        data = load_images(self.recipe, "test")
        trained_on = self.facts.get("class_names", list(data.class_names))
        try:
            return in_order_of(data, trained_on)  # an earlier version sorted classes otherwise
        except ValueError as error:
            now = list(data.class_names)
            raise UserError(f"{self.path} was trained on classes {trained_on}, and the data now has {now}") from error

    def regularizer(self, model: nn.Module, which: Which | None = None) -> Regularizer | None:
        """The regularizer with what it has learned; None where the run has none.

        Args:
            model: of this run, which says the size of embeddings.
            which: see `weights`.

        Raises:
            ValueError: see `weights`.
        """
        recipe = self.recipe
        if recipe.regularizer is None:
            return None
        with torch.no_grad():
            embedding = output_of(model, torch.zeros(1, *self.fact("shape"))).embedding
        regularizer = recipe.regularizer(self.fact("num_classes"), embedding.shape[1])
        self.weights(which).load_regularizer(regularizer)
        return regularizer.eval()

    def weights(self, which: Which | None = None) -> Weights:
        """Trained weights, compared with their checksum; from a checkpoint where the file is damaged.

        Args:
            which: ``"best"`` on held-out images or ``"last"``; None takes the best where there is one.

        Raises:
            ValueError: there are none yet, or they are damaged.
        """
        names = [which] if which else ["best", "last"]
        for name in (f"{name}.safetensors" for name in names):
            if name not in self._read and os.path.lexists(self.path / name):
                self._read[name] = read_weights(self.path / name)
            if name in self._read:
                return self._read[name]
        raise UserError(f"{self.path} has no {' or '.join(names)} weights yet; train it to the end: protoat train")

    @cached_property
    def model(self) -> nn.Module:
        """The trained model with the weights that count, in eval mode; see `network` for others."""
        return self.classifier()

    def classifier(self, which: Which | None = None) -> nn.Module:
        """The trained model, images in [0, 1] -> `Output`, in eval mode.

        Raises:
            ValueError: see `network`; or a pre-trained encoder, whose head has learned nothing.
        """
        if self.recipe.pretrains:
            name = called(self.path)
            raise UserError(
                f"{name} holds a pre-trained encoder without a head; write protoat evaluate {name} --linear-probe, or "
                f"give it one: protoat train --initialise.run {name}"
            )
        return self.network(which).model

    def network(self, which: Which | None = None, *, branch: Branch | None = None) -> Network:
        """The network of a run, pre-trained or trained, in eval mode.

        Args:
            which: see `weights`.
            branch: whose batch norm a network with two sets keeps; None takes the one of attacked images.

        Raises:
            ValueError: no weights yet, weights of another architecture, a branch that is not there, or a recipe that
                names code which is neither protoat's nor trusted.
        """
        recipe, weights = self.recipe, self.weights(which)
        model = self.untrained()
        method = recipe.method(recipe.threat)
        if isinstance(method, Contrastive):
            model = method.encoder(model)
        weights.load(model)
        if any(isinstance(layer, DualBatchNorm) for layer in model.modules()):
            branch = branch or ("adv" if not isinstance(method, ACL) else method.branch)
            model = keep_branch(model, branch)
        elif branch is not None:
            raise UserError(f"{self.path} has one set of batch norm, so branch={branch!r} is not there; leave it out")
        return Network(model.requires_grad_(True).eval(), branch)

    def untrained(self) -> nn.Module:
        """The network as the recipe builds it, with weights of the present random state."""
        shape = tuple(self.fact("shape"))
        return build_network(self.recipe, self.fact("num_classes"), shape, self.facts.get("prototypes_per_class"))

    def push(self, repo: str, *, private: bool = False) -> Pushed:
        """Puts the run on the Hugging Face Hub, with a model card; see `protoat.sharing.push.push`."""
        from protoat.sharing.push import push  # of a layer above, which no other part of a run needs

        return push(self, repo, private=private)

    def with_evaluation(self, record: Evaluation | None) -> Run:
        """The same run with another of its evaluations."""
        other = copy.copy(self)
        vars(other)["evaluation"] = record
        vars(other).pop("outdated", None)
        return other


def list_runs(root: Path | str) -> list[Run]:
    """Every run below a folder, by path; what cannot be read is logged and left out."""
    runs = []
    for folder in run_folders(Path(root)):
        try:
            run = Run(folder)
            run.check()
            run.warn_of_damage()
            runs.append(run)
        except UserError as error:
            logger.warning("left out: %s", error)
    return runs
