"""Clean and robust accuracy on held-out images, by which the best checkpoint is chosen."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from protoat.attacks import PGD, Attack
from protoat.attacks.examination import examine
from protoat.attacks.mode import attacking
from protoat.attacks.precision import attacks_in, present_precision
from protoat.data.batch_format import as_batch
from protoat.data.given import FORMS, as_image_data, is_whole
from protoat.errors import UserError
from protoat.functional.distributed import mean_over_processes
from protoat.functional.forward import output_of, predicted
from protoat.functional.images import check_images
from protoat.methods import Standard
from protoat.objective import Objective
from protoat.training.batches import first_batch
from protoat.training.loader_memory import LoaderMemory
from protoat.training.seeding import derived_seed
from protoat.training.signals import workers_spared

logger = logging.getLogger(__name__)

_BATCH_SIZE = 256


def default_attack(objective: Objective) -> Attack | None:
    """PGD-10 under the method's threat model; None for clean training."""
    method = objective.method
    return None if isinstance(method, Standard) else PGD(method.threat, steps=10)


@dataclass(eq=False)
class Validation:
    """Measures a model on the same images, with the same random starts, each time it is called.

    Args:
        data: held-out images in any form that `protoat.evaluate` takes. A loader is read anew each time, in its own
            order, which should be fixed; all else is read once.
        attack: None measures clean accuracy only.
        device: where the model is.
        rank, world_size: each process takes every `world_size`-th batch.
        dtypes: floating-point types that the model takes.
        name_worst: name the worst mode; `data` must say the mode of each image, as `ImageData` does.

    Attributes:
        memory: what the caller's loader remembers, for checkpoints.
        by_mode: of the last call, ``mode_clean`` and ``mode_robust``: the accuracy of each mode, by name; where no
            modes are known ``class_clean`` and ``class_robust``, by number where `data` has no names.

    Raises:
        ValueError: no iterable of batches of images in [0, 1] with labels.
    """

    data: Any
    attack: Attack | None
    _: KW_ONLY
    device: torch.device
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    dtypes: Collection[torch.dtype] = (torch.float32,)
    name_worst: bool = False

    def __post_init__(self) -> None:
        if is_whole(self.data):
            self.data = as_image_data(self.data, dtypes=self.dtypes)
        self.by_mode: dict[str, dict[str, float]] = {}
        self._told: set[str] = set()
        self._has_images = hasattr(self.data, "images")
        self.memory = LoaderMemory(None if self._has_images else self.data)
        if not self._has_images:
            if not hasattr(self.data, "__iter__") and not hasattr(self.data, "__getitem__"):
                raise UserError(f"validation is a {type(self.data).__name__}, expected {FORMS}")
            first_batch(self.data, self.device, dtypes=self.dtypes, what="validation")

    def __call__(self, model: nn.Module) -> dict[str, Any]:
        """``images``, ``clean`` and, with an attack, ``robust``: a count and two fractions.

        Where it is to be named also ``worst_mode``: its name, and how many of its images are right, under attack if
        there is one.
        """
        counts = (mean_over_processes(self._counts(model, by_mode=True)) * self.world_size).round()
        images, clean_count, robust_count = counts.sum(1).tolist()
        if not images:
            raise UserError("validation holds no images; leave it out or pass some")
        measured: dict[str, Any] = {"images": int(images), "clean": clean_count / images}
        if self.attack is not None:
            measured["robust"] = robust_count / images
        self.by_mode = self._shares(counts)
        if self.name_worst:
            shares = torch.where(counts[0] > 0, counts[2] / counts[0].clamp_min(1), torch.inf)
            worst = int(shares.argmin())
            correct, total = int(counts[2, worst]), int(counts[0, worst])
            measured["worst_mode"] = {"mode": self.data.mode_names[worst], "correct": correct, "total": total}
        return measured

    def _shares(self, counts: Tensor) -> dict[str, dict[str, float]]:
        """Accuracies of the modes, or classes, that have images, clean and, with an attack, robust."""
        images, clean, robust = counts.tolist()
        known = getattr(self.data, "mode_names", None)
        names = range(len(images)) if known is None else known
        group = "class" if known in (None, getattr(self.data, "class_names", None)) else "mode"
        shares = {"clean": clean} | ({} if self.attack is None else {"robust": robust})
        return {
            f"{group}_{key}": {str(names[mode]): right[mode] / total for mode, total in enumerate(images) if total}
            for key, right in shares.items()
        }

    def worst_class(self, model: nn.Module) -> float:
        """Robust accuracy, a fraction, in the class where it is lowest; classes without images do not count."""
        images, _, robust = mean_over_processes(self._counts(model))
        return float((robust / images)[images > 0].min())

    def _counts(self, model: nn.Module, *, by_mode: bool = False) -> Tensor:
        """(3, classes or modes) of this process: images, those right when clean, those right under attack."""
        nothing = torch.zeros(0, dtype=torch.int64, device=self.device)
        grouped, when_clean, attacked, count = [nothing], [nothing], [nothing], 0
        for index, (images, labels, modes) in enumerate(self._batches()):
            groups = (modes if by_mode else labels).to(self.device)
            count = max(count, 1 + int(groups.max()))
            if index % self.world_size != self.rank:
                continue
            x, y = check_images(images.to(self.device)), labels.to(self.device)
            if index == self.rank and len(x):
                self._say(model, x)
            with attacking(model), torch.no_grad():
                clean = predicted(output_of(model, x).logits) == y
            robust = clean
            if self.attack is not None:
                generator = torch.Generator(self.device).manual_seed(derived_seed("validation", self.seed, index))
                with attacks_in(present_precision(), exact_end=True):
                    x_adv = self.attack.craft(model, x, y, generator=generator)
                robust = self.attack.judged(model, x_adv, y).correct
            grouped.append(groups)
            when_clean.append(groups[clean])
            attacked.append(groups[robust])
        every = (torch.cat(found) for found in (grouped, when_clean, attacked))
        return torch.stack([torch.bincount(found, minlength=count).float() for found in every])

    def _say(self, model: nn.Module, x: Tensor) -> None:
        """Warns of what makes the numbers of a call mean less, told by its first batch; of each thing once."""
        found = examine(model, x[:4])
        follows = self.attack is not None and self.attack.follows_gradients
        if self.attack is not None:
            self.attack.check(tuple(x.shape), found.output)
        for finding in found.of_attack(follows):
            if finding.severity != "note" and finding.code not in self._told:
                self._told.add(finding.code)
                logger.warning("validation: %s: %s", finding.code, finding.text)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Images, labels, and modes, which are the labels where no others are known."""
        if self._has_images:
            for start in range(0, len(self.data.labels), _BATCH_SIZE):
                chosen = slice(start, start + _BATCH_SIZE)
                yield self.data.pixels(chosen, self.device), self.data.labels[chosen], self.data.modes[chosen]
            return
        with workers_spared(self.data):
            for batch in self.data:
                x, y = as_batch(batch, dtypes=self.dtypes)
                yield check_images(x), y, y
