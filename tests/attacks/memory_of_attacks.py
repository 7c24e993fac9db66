"""Prints how many copies of a batch of images of 224 x 224 each attack holds at most, as the system counts memory.

Run it with MALLOC_MMAP_THRESHOLD_=65536, so that what is given back is given back.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from torch import nn

import protoat as pa

IMAGES, CLASSES = 8, 100
LINF, L2 = pa.Linf("4/255"), pa.L2(0.5)
SHORT = {"steps": 2, "learning_rate": 0.02, "initial_const": 1.0}
ATTACKS: dict[str, pa.Attack] = {
    "PGD": pa.PGD(LINF, steps=3),
    "APGD": pa.APGD(LINF, steps=4),
    "Square": pa.Square(LINF, queries=4),
    "FAB": pa.FAB(LINF, steps=1),
    "FAB L2": pa.FAB(L2, steps=1),
    "FABT": pa.FABT(LINF, steps=2, num_targets=2),
    "DeepFool": pa.DeepFool(LINF, steps=2, candidates=CLASSES - 1),
    "DeepFool L2": pa.DeepFool(L2, steps=2, candidates=CLASSES - 1),
    "CW L2": pa.CarliniWagnerL2(L2, search_steps=2, **SHORT),
    "CW L0": pa.CarliniWagnerL0(L2, largest_const=4.0, **SHORT),
    "CW L-inf": pa.CarliniWagnerLinf(LINF, largest_const=4.0, **SHORT),
}


def bytes_of(key: str) -> int:
    """What the system says of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.Linear(147, CLASSES)).eval()
    x = torch.rand(IMAGES, 3, 224, 224)
    y = model(x).argmax(1)
    pa.PGD(LINF, steps=1)(model, x, y)  # what torch loads once
    copies = {}
    for name, attack in ATTACKS.items():
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        before = bytes_of("VmRSS")
        attack(model, x, y)
        copies[name] = (bytes_of("VmHWM") - before) / (4 * x.numel())
    print(json.dumps(copies))


if __name__ == "__main__":
    main()
