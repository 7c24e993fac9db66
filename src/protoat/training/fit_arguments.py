"""The arguments of `fit`: what does not fit is refused, and what never happens in a run warned of."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import BatchSampler, DataLoader

from protoat.arguments import check_choice, check_epochs, check_flag, check_number, check_seed, check_whole
from protoat.attacks import Attack
from protoat.attacks.mode import attacking
from protoat.data import ImageData
from protoat.data.given import is_whole
from protoat.errors import UserError
from protoat.models import multi_prototype_head
from protoat.models.memory_format import MemoryFormat
from protoat.objective import Objective
from protoat.spelling import setting
from protoat.training.averaging import EMA, Averaging
from protoat.training.schedule import Constant, Schedule
from protoat.training.torch_schedule import TorchSchedule

logger = logging.getLogger(__name__)

Select = Literal["robust", "worst-mode"]


def check_parts(model: Any, objective: Any, schedule: Any, validation_attack: Any, accelerator: Any) -> None:
    """Each part is what it should be, which no later message would say.

    Raises:
        ValueError: names the one that is not.
    """
    parts: tuple[tuple[str, Any, type | tuple[type, ...], str], ...] = (
        ("model", model, nn.Module, "a torch module"),
        ("objective", objective, Objective, "protoat.Objective(method, regularizer)"),
        ("schedule", schedule, (Schedule, LRScheduler, type(None)), "a schedule of protoat.training or of torch"),
        ("validation_attack", validation_attack, (Attack, type(None)), "an attack"),
        ("accelerator", accelerator, (Accelerator, type(None)), "protoat.training.make_accelerator()"),
    )
    for name, value, kind, expected in parts:
        if not isinstance(value, kind):
            given = value.__name__ + " itself" if isinstance(value, type) else f"a {type(value).__name__}"
            raise UserError(f"{name} is {given}, expected {expected}")


def check_output(out: Path | str | None, resume: bool, progress: bool | None) -> None:
    """What says where a run is stored and shown.

    Raises:
        ValueError: names the one that is not what it should be.
    """
    check_flag(resume=resume)
    if progress is not None:
        check_flag(progress=progress)
    if out is not None and not isinstance(out, str | os.PathLike):
        raise UserError(f"out is a {type(out).__name__}, expected the path of a folder")


@dataclass(frozen=True)
class Settings:
    """The settings of a run that every part of `fit` is told; see there for their meaning.

    Raises:
        ValueError: names the one that is not in its range.
    """

    epochs: int
    schedule: Schedule
    validate_every: int
    select: Select
    checkpoint_every: int | None
    averaging: Averaging | None
    clip_norm: float | None
    compile: bool
    memory_format: MemoryFormat
    seed: int

    def __post_init__(self) -> None:
        check_epochs(self.epochs)
        check_whole(validate_every=self.validate_every)
        check_choice(Select, select=self.select)
        check_seed(seed=self.seed)
        check_flag(compile=self.compile)
        if self.checkpoint_every is not None:
            check_whole(1, "leave it out for epochs only", checkpoint_every=self.checkpoint_every)
        if self.clip_norm is not None:
            check_number("(0, inf)", "leave it out to clip nothing", clip_norm=self.clip_norm)

    def check_needs(self, validation: Any, out: Path | str | None) -> None:
        """What they ask for beside them is there.

        Raises:
            ValueError: checkpoints without a folder; an average or best epoch that held-out images must tell, and none
                do.
        """
        if self.checkpoint_every is not None and out is None:
            raise UserError(f"checkpoint_every={self.checkpoint_every} needs a folder to write to; pass out")
        if self.select == "worst-mode" and not (isinstance(validation, ImageData) or is_whole(validation)):
            given = "none are held out" if validation is None else f"validation is a {type(validation).__name__}"
            raise UserError(
                f"select='worst-mode' needs held-out images whose modes are known, and {given}; pass a "
                "protoat.ImageData as validation"
            )
        if self.averaging is not None and self.averaging.needs_validation and validation is None:
            raise UserError(f"{type(self.averaging).__name__} decides by held-out images; pass validation")


def as_schedule(schedule: Schedule | LRScheduler | None) -> Schedule:
    """The schedule that `schedule` stands for."""
    return TorchSchedule(schedule) if isinstance(schedule, LRScheduler) else schedule or Constant()


def as_averaging(averaging: float | Averaging | None) -> Averaging | None:
    """The rule that `averaging` stands for.

    Raises:
        ValueError: a decay outside (0, 1).
    """
    if averaging is None or isinstance(averaging, Averaging):
        return averaging
    check_number("(0, 1)", "0.999 is usual", averaging=averaging)
    return EMA(decay=averaging)


def warn_of_the_unreached(model: nn.Module, objective: Objective, settings: Settings) -> None:
    """What the settings ask for beyond the end of the run."""
    epochs, weighting = settings.epochs, objective.weighting
    parts = (objective.method, objective.regularizer, objective.modes, multi_prototype_head(model))
    found = [
        text
        for part in (settings.schedule, *parts, settings.averaging)
        if part is not None
        for text in part.unreached(epochs)
    ]
    if weighting is not None:  # which learns from each replay of a batch
        found += weighting.unreached(epochs * objective.updates_per_batch)
    for text in found:
        logger.warning("in a run of %d epoch%s %s", epochs, "s" * (epochs > 1), text)


def warn_of_two_decays(objective: Objective, optimizer: Optimizer) -> None:
    """Kernels that both the norm term and the optimizer shrink."""
    decay = max(float(group.get("weight_decay", 0)) for group in optimizer.param_groups)
    if objective.norm == "weights" and objective.norm_weight and decay:
        logger.warning(
            "kernels decay twice: by the norm term (%s, %s), which is a decay of twice its weight, and by the "
            "optimizer (%s); write %s or %s",
            setting(norm=objective.norm),
            setting(norm_weight=objective.norm_weight),
            setting(weight_decay=decay),
            setting(norm_weight=0),
            setting(weight_decay=0),
        )


def check_single_image(
    loader: Any, image: Tensor, model: nn.Module, learning: Collection[nn.Module], objective: Objective
) -> None:
    """Refuses batches of one image where batch norm cannot train on it.

    Args:
        loader: of the training images.
        image: (1, ...); one forward in eval mode, which changes nothing.
        model: of which no batch norm may see one value of each channel.
        learning: the modules that train in train mode.
        objective: its regularizer sees embeddings, so that each batch norm in it sees one value of each channel.

    Raises:
        ValueError: names the layer.
    """
    if not objective.method.labelled or smallest_batch(loader) != 1:
        return
    parts = () if objective.regularizer is None else objective.regularizer.named_modules()
    alone = [f"regularizer.{name}" for name, part in parts if isinstance(part, _BatchNorm) and part.training]
    hooks = [
        module.register_forward_pre_hook(
            lambda _, inputs, name=name: alone.append(name) if inputs[0].numel() == inputs[0].shape[1] else None
        )
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module in learning
    ]
    try:
        if hooks:
            with attacking(model), torch.no_grad():
                model(image)
    finally:
        for hook in hooks:
            hook.remove()
    if alone:
        raise UserError(
            f"a batch of an epoch holds one image, and of one image batch norm {alone[0]!r} has one value a channel, "
            "which has no variance; pass drop_last=True or another batch_size"
        )


def smallest_batch(loader: Any) -> int | None:
    """Images in the smallest batch of a loader, where it can be known without reading it.

    >>> smallest_batch(DataLoader(torch.zeros(5, 1), batch_size=2))
    1
    """
    if isinstance(loader, DataLoader):
        sampler = loader.batch_sampler
        if type(sampler) is not BatchSampler:
            return None
        size, drop_last = sampler.batch_size, sampler.drop_last
        images = len(sampler.sampler)  # type: ignore[arg-type] # the loader has a length
    elif hasattr(loader, "data") and hasattr(loader, "world_size"):  # ImageLoader
        size, drop_last, images = loader.batch_size, loader.drop_last, len(loader.data) // loader.world_size
    else:
        return None
    return int(size if drop_last or images % size == 0 else images % size)
