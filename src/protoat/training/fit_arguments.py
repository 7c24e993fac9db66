"""Checks of the arguments of `fit`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from protoat.arguments import check_choice, check_epochs, check_flag, check_number, check_seed, check_whole
from protoat.attacks import Attack
from protoat.data import ImageData
from protoat.data.given import is_whole
from protoat.errors import UserError
from protoat.objective import Objective
from protoat.training.averaging import EMA, Averaging
from protoat.training.schedule import Schedule

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


def check_options(
    *,
    epochs: int,
    validate_every: int,
    seed: int,
    flags: Mapping[str, bool],
    checkpoint_every: int | None,
    averaging: float | Averaging | None,
    clip_norm: float | None,
    progress: bool | None,
    out: Path | str | None,
) -> None:
    """Each option is in its range.

    Raises:
        ValueError: names the one that is not.
    """
    check_epochs(epochs)
    check_whole(validate_every=validate_every)
    check_seed(seed=seed)
    check_flag(**flags)
    if checkpoint_every is not None:
        check_whole(1, "leave it out for epochs only", checkpoint_every=checkpoint_every)
    if checkpoint_every is not None and out is None:
        raise UserError(f"checkpoint_every={checkpoint_every} needs a folder to write to; pass out")
    if averaging is not None and not isinstance(averaging, Averaging):
        check_number("(0, 1)", "0.999 is usual", averaging=averaging)
    if clip_norm is not None:
        check_number("(0, inf)", "leave it out to clip nothing", clip_norm=clip_norm)
    if progress is not None:
        check_flag(progress=progress)
    if out is not None and not isinstance(out, str | os.PathLike):
        raise UserError(f"out is a {type(out).__name__}, expected the path of a folder")


def check_select(select: str, validation: Any) -> None:
    """The best epoch can be told by what is held out.

    Raises:
        ValueError: an unknown word, or held-out images without modes.
    """
    check_choice(Select, select=select)
    if select == "worst-mode" and not (isinstance(validation, ImageData) or is_whole(validation)):
        given = "none are held out" if validation is None else f"validation is a {type(validation).__name__}"
        raise UserError(
            f"select='worst-mode' needs held-out images whose modes are known, and {given}; pass a protoat.ImageData "
            "as validation"
        )


def averaging_rule(averaging: float | Averaging | None, validation: Any) -> Averaging | None:
    """The rule that `averaging` stands for.

    Raises:
        ValueError: it decides by held-out images, and there are none.
    """
    rule = averaging if averaging is None or isinstance(averaging, Averaging) else EMA(decay=averaging)
    if rule is not None and rule.needs_validation and validation is None:
        raise UserError(f"{type(rule).__name__} decides by held-out images; pass validation")
    return rule
