"""Time of `protoat.evaluate` beside other libraries: PGD-50 with 5 restarts, and the whole AutoAttack.

The model is a PGD-AT network for MNIST (trained once, see `benchmarks.strength`), the images are real test images, the
batch is the same for all, everything runs on one thread, and sides take turns. An image counts as robust where all
restarts fail, so our side may leave fallen images alone; others get the same where they have it. The accuracy that
each leaves is printed, because a fast attack that finds less is no faster attack. Without the other libraries or the
data there is nothing to compare, and the row says so. ``PROTOAT_DATA=... python -m benchmarks attacks``
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.strength import BATCH, Logits, advlib_pgd, foolbox_attack, library, pyautoattack_whole, trained
from protoat import Linf, evaluate
from protoat.attacks import PGD, Attack, AutoAttack
from protoat.data import MNIST, ImageData

EPS, STEPS, RESTARTS = 0.3, 50, 5
STEP = 2.5 * EPS / STEPS
PGD_IMAGES, PGD_ROUNDS, AA_IMAGES, AA_ROUNDS = 500, 3, 100, 1
Side = Callable[[nn.Module, ImageData], float]


def ours(attack: Attack) -> Side:
    def accuracy(model: nn.Module, data: ImageData) -> float:
        return evaluate(model, data, {"attack": attack}, batch_size=BATCH)["attack"].accuracy

    return accuracy


def theirs(craft: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Side:
    def accuracy(model: nn.Module, data: ImageData) -> float:
        right = 0
        for images, y in zip(data.images.split(BATCH), data.labels.split(BATCH), strict=True):
            x_adv = craft(model, images.float() / 255, y)
            with torch.no_grad():
                right += int((model(x_adv).argmax(1) == y).sum())
        return right / len(data)

    return accuracy


def torchattacks_restarts(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """torchattacks has no restarts: five runs, of which an image keeps the first that succeeds."""
    attack = library("torchattacks").PGD(model, eps=EPS, alpha=STEP, steps=STEPS)
    result, standing = x.clone(), torch.ones_like(y, dtype=torch.bool)
    for _ in range(RESTARTS):
        x_adv = attack(x, y)
        result[standing] = x_adv[standing]
        with torch.no_grad():
            standing &= model(x_adv).argmax(1) == y
    return result


def foolbox_restarts(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return foolbox_attack("LinfPGD", model, x, y, eps=EPS, abs_stepsize=STEP, steps=STEPS, repeat=RESTARTS)


def art_restarts(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    classifier = library("art.estimators.classification").PyTorchClassifier(
        model, nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, clip_values=(0, 1), device_type="cpu"
    )
    attack = library("art.attacks.evasion").ProjectedGradientDescentPyTorch(
        classifier,
        norm="inf",
        eps=EPS,
        eps_step=STEP,
        max_iter=STEPS,
        num_random_init=RESTARTS,
        batch_size=BATCH,
        verbose=False,
    )
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def pgd_sides() -> dict[str, Side]:
    return {
        "protoat": ours(PGD(Linf(EPS), steps=STEPS, step_size=STEP, restarts=RESTARTS)),
        "torchattacks": theirs(torchattacks_restarts),
        "foolbox": theirs(foolbox_restarts),
        "adversarial-robustness-toolbox": theirs(art_restarts),
        "adv-lib": theirs(partial(advlib_pgd, eps=EPS, step=STEP, steps=STEPS, restarts=RESTARTS)),
    }


def autoattack_sides() -> dict[str, Side]:
    return {
        "protoat": ours(AutoAttack(Linf(EPS), batch_size=BATCH)),
        "pyautoattack": theirs(partial(pyautoattack_whole, eps=EPS, norm="Linf")),
    }


def compare(
    title: str, sides: dict[str, Side], model: nn.Module, data: ImageData, *, rounds: int, limit: float
) -> dict[str, Any]:
    """A row: our time over that of the fastest other library."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    accuracy = {}
    for _ in range(rounds):
        for name, side in sides.items():
            with suppress(ImportError):
                started = time.process_time()
                accuracy[name] = side(model, data)
                times[name].append(time.process_time() - started)
    seconds = {name: median(values) for name, values in times.items() if values}
    for name, value in seconds.items():
        print(f"{title}, {len(data)} images: {name} {value:.1f} s, leaves {100 * accuracy[name]:.1f} %", flush=True)
    own = seconds.pop("protoat")
    if not seconds:
        return {"name": f"{title}: no other library is installed", "ratio": 1.0, "limit": None, "ok": True}
    fastest = min(seconds, key=lambda name: seconds[name])
    ratio = own / seconds[fastest]
    return {"name": f"{title}: time over {fastest}'s", "ratio": ratio, "limit": limit, "ok": ratio <= limit}


def main() -> list[dict[str, Any]]:
    """Measures both comparisons; both limits are of our time over the fastest other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if not MNIST().available():
            return [{"name": f"attacks not compared: {MNIST().not_found()}", "ratio": 1.0, "limit": None, "ok": True}]
        test = MNIST().load("test")
        model = Logits(trained("pgd-at", Path("runs/strength"), None))
        few = [test.subset(torch.arange(count)) for count in (PGD_IMAGES, AA_IMAGES)]
        return [
            compare(f"PGD-{STEPS} x {RESTARTS}", pgd_sides(), model, few[0], rounds=PGD_ROUNDS, limit=0.5),
            compare("AutoAttack", autoattack_sides(), model, few[1], rounds=AA_ROUNDS, limit=0.7),
        ]
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    raise SystemExit(0 if all(row["ok"] for row in main()) else 1)
