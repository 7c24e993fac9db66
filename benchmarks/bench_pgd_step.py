"""The PGD-7 training step on ResNet-18, batch 32 of 32x32 colour images, beside the ways public scripts do it, and with
passes of the attack in bfloat16. The processor and its units for bfloat16 are printed; time is processor time."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoat import Linf, Objective
from protoat.attacks.precision import AttackPrecision, attacks_in
from protoat.methods import PGDAT
from protoat.models import ResNet18
from protoat.regularizers import SoftTriple

_EPS, _STEP, _STEPS, _BATCH = 8 / 255, 2 / 255, 7, 32

# By the processor's unit, the fastest first. Where there is none, bfloat16 is emulated, and `auto` leaves it alone.
# avx512_bf16 multiplies twice as fast as float32, so it can save half of the attack's 14 of 17 passes: 0.59 of ours.
_LIMITS = {
    "amx_bf16": {"in fp32": 0.55, "eager loop": 0.36, "torchattacks": 0.52},
    "avx512_bf16": {"in fp32": 0.66, "eager loop": 0.42, "torchattacks": 0.63},
}


def main(rounds: int = 5) -> list[dict[str, Any]]:
    """Interleaved in one process, medians; ratios of our step to the others'."""
    x, y = torch.rand(_BATCH, 3, 32, 32), torch.randint(0, 10, (_BATCH,))
    steps = {"ours": _ours(x, y), "ours with SoftTriple": _ours(x, y, prototypes=10), "eager loop": _eager(x, y)}
    steps["ours, attack in bf16"] = _ours(x, y, precision="bf16")
    try:
        steps["torchattacks"] = _torchattacks(x, y)
        steps["torchattacks in bf16"] = _torchattacks(x, y, half=True)
    except ImportError:
        print("torchattacks is not installed (pip install --no-deps torchattacks), so it is left out")
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            started = time.process_time()
            step()
            if turn:
                seconds[name].append(time.process_time() - started)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(f"{name}: {median[name]:.2f} s of processor time a step, {min(values):.2f} to {max(values):.2f}")
    rows = []
    for other, limit in (("eager loop", 0.66), ("torchattacks", 0.98)):
        if other in median:
            rows.append(_row(f"PGD-7 step / {other}", median["ours"] / median[other], limit))
    found = units()
    print(f"processor: {processor()}; its units for bfloat16: {', '.join(found) or 'none'}")
    half = median["ours, attack in bf16"]
    limits = next((limits for unit, limits in _LIMITS.items() if unit in found), {})
    rows += [
        _row(f"PGD-7 step, attack in bf16 / {other}", half / median[name], limits.get(other))
        for other, name in (("in fp32", "ours"), *((name, name) for name in steps if not name.startswith("ours")))
    ]
    rows.append(_row("PGD-7 step with SoftTriple / without", median["ours with SoftTriple"] / median["ours"], 1.01))
    return rows


def _row(name: str, ratio: float, limit: float | None) -> dict[str, Any]:
    return {"name": name, "ratio": ratio, "limit": limit, "ok": limit is None or ratio <= limit}


def _cpu_info() -> dict[str, str]:
    """The fields of /proc/cpuinfo, of one core; empty where there is no such file."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def processor() -> str:
    """Its name, as the system says it."""
    return _cpu_info().get("model name") or platform.processor() or "unknown"


def units() -> list[str]:
    """Instruction sets for bfloat16 that this processor has, the fastest first."""
    return [unit for unit in _LIMITS if unit in _cpu_info().get("flags", "").split()]


def _network() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = ResNet18(10, 3, 32)
    return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def _ours(x: Tensor, y: Tensor, prototypes: int = 0, precision: AttackPrecision = "fp32") -> Callable[[], None]:
    model, optimizer = _network()
    model.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    regularizer = SoftTriple(10, 512, prototypes_per_class=prototypes) if prototypes else None
    objective = Objective(PGDAT(Linf(_EPS), steps=_STEPS, step_size=_STEP), regularizer)
    if regularizer is not None:
        optimizer.add_param_group({"params": list(regularizer.parameters())})

    def step() -> None:
        model.train()
        with attacks_in(precision):
            for terms in objective.losses(model, x, y):
                optimizer.zero_grad()
                terms.total.backward()
                optimizer.step()

    return step


def _eager(x: Tensor, y: Tensor) -> Callable[[], None]:
    """As most public scripts do it: train mode, ``loss.backward()`` in every attack step."""
    model, optimizer = _network()

    def step() -> None:
        model.train()
        delta = torch.empty_like(x).uniform_(-_EPS, _EPS)
        for _ in range(_STEPS):
            x_adv = (x + delta).clamp(0, 1).requires_grad_()
            F.cross_entropy(model(x_adv).logits, y).backward()
            assert x_adv.grad is not None
            delta = (x_adv.detach() + _STEP * x_adv.grad.sign() - x).clamp(-_EPS, _EPS)
        optimizer.zero_grad()
        F.cross_entropy(model((x + delta).clamp(0, 1)).logits, y).backward()
        optimizer.step()

    return step


def _torchattacks(x: Tensor, y: Tensor, *, half: bool = False) -> Callable[[], None]:
    import torchattacks

    class Logits(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            return self.model(images).logits

    model, optimizer = _network()
    attack = torchattacks.PGD(Logits(model), eps=_EPS, alpha=_STEP, steps=_STEPS)

    def step() -> None:
        model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            x_adv = attack(x, y)
        optimizer.zero_grad()
        F.cross_entropy(model(x_adv).logits, y).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    for row in main():
        print(f"{row['name']}: {row['ratio']:.3f} (limit {row['limit']})")
