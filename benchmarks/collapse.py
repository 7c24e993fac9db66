"""Whether one-step training collapses: PGD-50 on held-out images between epochs.

    PROTOAT_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.collapse --seeds 0 1 2
    PROTOAT_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.collapse --data cifar10 --ramp 0 --images 10000

MNIST at L-inf 0.3 with the small network, where the radius needs a ramp, or CIFAR-10 at 8/255 with a narrow
ResNet-18; Adam in one cycle, no regularizer; on MNIST the arguments of the recipes `n-fgsm-mnist` and
`nuat-mnist`, elsewhere the methods' own. Prints a row for each method and seed: PGD-50 at the best epoch at full
radius and at the last one, and by how many points it fell. `FGSMAT`, which is known to collapse, shows that the
measurement would see it. Some minutes for each run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.subjects import NAMES, THREATS, images, network
from protoat import PGD, Cyclic, ImageData, ImageLoader, Objective, fit, parameter_groups
from protoat.methods import ATTA, FGSMAT, FGSMPGI, NFGSM, Method, NuAT

METHODS: dict[str, Callable[..., Method]] = {kind.__name__: kind for kind in (NFGSM, FGSMPGI, NuAT, ATTA, FGSMAT)}
ON_MNIST = {"NFGSM": {"noise": 1.0, "clip_noise": False}, "NuAT": {"start": 1.0}}


def accuracies(name: str, seed: int, data: tuple[ImageData, ImageData], given: argparse.Namespace) -> list[float]:
    """Share of held-out images that withstand PGD-50 after each measured epoch in which the radius is full."""
    torch.manual_seed(seed)
    train, held_out = data
    net, threat = network(given.data, width=given.width), THREATS[given.data]
    arguments = ON_MNIST.get(name, {}) if given.data == "mnist" and not given.defaults else {}
    objective = Objective(METHODS[name](threat, ramp_epochs=given.ramp, **arguments))
    optimizer = torch.optim.Adam(parameter_groups(net, objective, lr=given.lr))
    per_image = objective.method.per_image
    loader = ImageLoader(train, batch_size=given.batch_size, seed=seed, drop_last=True, origins=per_image)
    result = fit(
        net,
        loader,
        objective,
        epochs=given.epochs,
        optimizer=optimizer,
        schedule=Cyclic(lr_min=0.0, peak=0.4),
        validation=held_out,
        validate_every=given.validate_every,
        validation_attack=PGD(threat, steps=50, step_size=threat.eps / 15),
        memory_format="channels_last" if given.data == "cifar10" and given.width >= 0.25 else None,
        seed=seed,
        progress=False,
    )
    return [
        line["validation"]["robust"] for line in result.metrics if "validation" in line and line["epoch"] > given.ramp
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collapse", description=__doc__)
    parser.add_argument("methods", nargs="*", default=list(METHODS), help="some of the methods")
    parser.add_argument("--data", choices=NAMES, default="mnist")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--ramp", type=float, default=3.0, help="epochs over which the radius grows")
    parser.add_argument("--lr", type=float, default=5e-3, help="the top of the cycle")
    parser.add_argument("--defaults", action="store_true", help="the methods' own arguments on MNIST too")
    parser.add_argument("--width", type=float, default=0.25, help="of ResNet-18")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--images", type=int, default=60_000, help="training images")
    parser.add_argument("--held_out", type=int, default=1000, help="test images")
    parser.add_argument("--validate_every", type=int, default=1, help="epochs between measurements")
    parser.add_argument("--root", type=Path, help="folder with data; default PROTOAT_DATA")
    given = parser.parse_args()
    data = images(given.data, given.images, given.held_out, given.root)
    print("| method | seed | best | last | fall |\n| --- | --- | --- | --- | --- |", flush=True)
    for seed in given.seeds:
        for name in given.methods:
            found = accuracies(name, seed, data, given)
            fall = 100 * (max(found) - found[-1])
            print(f"| `{name}` | {seed} | {max(found):.1%} | {found[-1]:.1%} | {fall:.1f} |", flush=True)


if __name__ == "__main__":
    main()
