"""What one writes who comes from a library whose attacks hold the model: answered with the call that is right here."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from protoat.threats import Linf, ThreatModel

NOT_GIVEN: Any = None  # stands for a missing argument, so that `attack(x, y)` can be answered
_FOREIGN = ("model", "eps", "alpha")  # of torchattacks


class HoldsNoModel:
    """Base of `Attack`: refuses ``PGD(model, eps=8/255, alpha=2/255)`` with the right call.

    >>> from protoat.attacks import PGD
    >>> PGD(nn.Linear(2, 2), eps=8 / 255, alpha=0.01, steps=20)
    Traceback (most recent call last):
    TypeError: PGD takes a threat model, and the model when it is called; write attack = pa.PGD(pa.Linf(8/255), \
steps=20, step_size=0.01), then attack(model, x, y).x_adv
    """

    def __new__(cls, *args: Any, **options: Any) -> Any:
        known = inspect.signature(cls.__init__).parameters
        if next(iter([*known][1:]), "") == "threat":
            holds = bool(args) and (isinstance(args[0], nn.Module) or inspect.isroutine(args[0]))
            if holds or any(name in options and name not in known for name in _FOREIGN):
                raise TypeError(
                    f"{cls.__name__} takes a threat model, and the model when it is called; write attack = "
                    f"{_construction(cls.__name__, known, args, options)}, then attack(model, x, y).x_adv"
                )
        return super().__new__(cls)


def _construction(name: str, known: Mapping[str, Any], args: tuple[Any, ...], options: Mapping[str, Any]) -> str:
    """A construction of ours with what was given, as far as it is the same here."""
    given = next((value for value in (*args, *options.values()) if isinstance(value, ThreatModel)), None)
    eps = options.get("eps", args[1] if len(args) > 1 else 8 / 255)
    try:
        threat = given or Linf(eps)
    except (TypeError, ValueError):
        threat = Linf("8/255")
    same = {key: value for key, value in options.items() if key in known and key != "threat"}
    if "steps" in known:
        same = {"steps": 10, **same}
    if "step_size" in known and "alpha" in options:
        same["step_size"] = options["alpha"]
    told = {key: value for key, value in same.items() if isinstance(value, bool | int | float | str)}
    return f"pa.{name}({', '.join([f'pa.{threat!r}', *(f'{key}={value!r}' for key, value in told.items())])})"


def check_call(kind: type, model: Any, y: Any) -> None:
    """Refuses images in place of the model.

    Raises:
        TypeError: the right call.

    >>> import torch
    >>> check_call(HoldsNoModel, torch.zeros(1, 3, 8, 8), None)
    Traceback (most recent call last):
    TypeError: HoldsNoModel is called with the model first; write attack(model, x, y).x_adv
    """
    if isinstance(model, Tensor) or y is None:
        raise TypeError(f"{kind.__name__} is called with the model first; write attack(model, x, y).x_adv")
