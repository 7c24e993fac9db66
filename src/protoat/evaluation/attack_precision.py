"""Chooses the precision of an evaluation's attacks by a timed step; a resumed one keeps its own."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from protoat.attacks import Attack
from protoat.attacks.precision import AttackPrecision, attacks_in
from protoat.attacks.timed_precision import timed_precision
from protoat.data import ImageData
from protoat.evaluation.measurement import Saved, parameters_of
from protoat.evaluation.micro_batches import MicroBatched
from protoat.functional.forward import device_of

_IMAGES = 64  # in the pass that is timed
_KEY = "attack precision"


def chosen_precision(
    network: MicroBatched, data: ImageData, order: Tensor, attacks: Iterable[Attack | None], saved: Saved | None
) -> AttackPrecision:
    """What ``attack_precision="auto"`` means here: ``"fp32"`` where no attack takes gradients in bfloat16.

    Args:
        network: that is measured.
        data, order: its images, and the first of them.
        attacks: that are measured.
        saved: keeps the choice, so that a call that goes on makes the same.
    """
    with attacks_in("bf16", exact_end=True):
        coarse = [
            attack
            for attack in attacks
            if attack is not None and attack.follows_gradients and "precision" in parameters_of(attack)
        ]
    if not coarse:
        return "fp32"
    kept = None if saved is None else saved.get(_KEY)
    if kept is not None:
        return "bf16" if kept[0] == "1" else "fp32"
    device = device_of(network)
    rows = order[:_IMAGES]
    x, y = data.pixels(rows, device), data.labels[rows].to(device)
    chosen, ratio = network.retrying(lambda: timed_precision(network, x, y, coarse[0].threat), len(rows))
    if saved is not None:
        saved.put(_KEY, "1" if chosen == "bf16" else "0", ratio, ())
    return chosen
