"""An optimizer's state as flat tensors and JSON values, and the parameters it must hold."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer, SparseAdam

from protoat.arguments import check_number
from protoat.errors import UserError
from protoat.objective import Objective
from protoat.spelling import setting

_PLAIN = (bool, int, float, str, type(None))


def parameter_groups(
    model: nn.Module,
    objective: Objective,
    *,
    lr: float,
    prototype_lr_factor: float = 1.0,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Groups for any torch optimizer: the network, and prototypes with their own rate and no weight decay.

    Args:
        model: its trainable parameters form the first group, with the layers that the objective learns (an auxiliary
            head, the projection in front of prototypes).
        objective: its prototypes form the second, when it has some; its method is prepared for the model.
        lr: learning rate of the network.
        prototype_lr_factor: the prototypes' rate, as a multiple of `lr`; a schedule keeps the ratio.
        weight_decay: of the network, biases and batch norm included, as in the paper.

    Raises:
        ValueError: a rate or factor that is not positive, a negative weight decay.

    >>> from protoat.methods import Standard
    >>> from protoat.threats import Linf
    >>> groups = parameter_groups(nn.Linear(4, 2), Objective(Standard(Linf(0.1))), lr=0.1, weight_decay=5e-4)
    >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
    [(2, 0.0005)]
    """
    check_number("(0, inf)", lr=lr, prototype_lr_factor=prototype_lr_factor)
    check_number("[0, inf)", weight_decay=weight_decay)
    objective.prepare(model)
    network = [parameter for parameter in model.parameters() if parameter.requires_grad]
    network += objective.layers()
    groups: list[dict[str, Any]] = [{"params": network, "lr": lr, "weight_decay": weight_decay}]
    if prototypes := objective.prototypes():
        groups.append({"params": prototypes, "lr": lr * prototype_lr_factor, "weight_decay": 0.0})
    return groups


def check_usable(optimizer: Optimizer) -> None:
    """Refuses an optimizer that `fit` cannot step, or of which no step could move anything.

    Raises:
        ValueError: no optimizer, one that calls the loss itself or wants sparse gradients, or rates that are no numbers
            or all 0, or another setting that is not finite.
    """
    if not isinstance(optimizer, Optimizer):
        raise UserError(f"optimizer is a {type(optimizer).__name__}, expected one of torch.optim")
    name = type(optimizer).__name__
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UserError(f"{name} calls the loss several times for one step, which no training method here allows")
    if isinstance(optimizer, SparseAdam):
        raise UserError("SparseAdam takes sparse gradients only, and these are dense; write Adam")
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    check_number("[0, inf)", **{f"lr of group {number}": rate for number, rate in enumerate(rates)})
    for group in optimizer.param_groups:
        for key, value in group.items():
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, float) and not math.isfinite(number):
                    raise UserError(f"{setting({key: number})} of {name} is not finite")
    if not any(rates):
        raise UserError(f"every learning rate of {name} is 0, so nothing would learn")


def check_covered(model: nn.Module, objective: Objective, optimizer: Optimizer) -> None:
    """Every trainable parameter of the model and of the objective must be in the optimizer.

    Raises:
        ValueError: names those that are not.
    """
    objective.prepare(model)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    named = [*model.named_parameters()]
    named += [(f"objective parameter {i}", value) for i, value in enumerate(objective.parameters())]
    missing = [f"{name} {tuple(value.shape)}" for name, value in named if value.requires_grad and id(value) not in held]
    if missing:
        raise UserError(
            f"the optimizer lacks {', '.join(missing)}; "
            "build it from protoat.parameter_groups(model, objective, lr=...)"
        )


def flatten(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by flat name, and everything else as JSON values.

    Raises:
        ValueError: the optimizer keeps something that is neither.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    content = optimizer.state_dict()
    groups = ({k: v for k, v in group.items() if k != "params"} for group in content["param_groups"])
    owners = [(f"group{i}", group) for i, group in enumerate(groups)] + [*content["state"].items()]
    for owner, values in owners:
        plain[str(owner)] = {}
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{owner}.{key}"] = value
            elif isinstance(value, _PLAIN) or (
                isinstance(value, tuple | list) and all(isinstance(entry, _PLAIN) for entry in value)
            ):
                plain[str(owner)][key] = value
            else:
                raise UserError(
                    f"{type(optimizer).__name__} keeps {key} as {type(value).__name__}, which is neither a tensor nor "
                    "a plain value; such an optimizer cannot be checkpointed"
                )
    return tensors, plain


def unflatten(optimizer: Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """Puts back what `flatten` gave."""
    owned: dict[str, dict[str, Any]] = {owner: dict(values) for owner, values in plain.items()}
    for name, value in tensors.items():
        owner, _, key = name.partition(".")
        owned[owner][key] = value
    groups = []
    for i, group in enumerate(optimizer.state_dict()["param_groups"]):
        saved = owned.pop(f"group{i}")
        groups.append(group | {key: tuple(v) if isinstance(group.get(key), tuple) else v for key, v in saved.items()})
    state = {int(owner): values for owner, values in owned.items()}
    optimizer.load_state_dict({"state": state, "param_groups": groups})
