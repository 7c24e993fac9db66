"""What bfloat16 in attacks saves and costs: AutoAttack in both precisions, and training in both.

    PROTOAT_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.precision autoattack --folder runs/precision
    PROTOAT_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.precision training mnist cifar10 --folder runs/precision

`autoattack` trains small models once (minutes), attacks the same images of each in float32, in bfloat16 and by
pyautoattack, in turns, and prints a row for each model. `training` trains pairs that differ in the precision of the
training attack alone, seed by seed, and compares what AutoAttack in float32 leaves of them, image by image. Weights are
kept in the folder. Time is processor time. Where the processor has no units for bfloat16, it is simulated, see
`benchmarks.simulated`: accuracies are those of such units, and times are left out.
"""

from __future__ import annotations

import argparse
import math
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple
from unittest.mock import patch

import torch
from safetensors.torch import load_file, save_file
from scipy.stats import t
from torch import Tensor, nn

from benchmarks.bench_pgd_step import processor, units
from benchmarks.simulated import Autocast
from benchmarks.strength import Logits, pyautoattack_whole
from benchmarks.subjects import NAMES, THREATS, Name, images, network
from protoat import AutoAttack, ImageData, ImageLoader, Objective, evaluate, fit, regroup
from protoat.attacks.precision import AttackPrecision
from protoat.evaluation.statistics import Paired
from protoat.methods import PGDAT

BOTH: tuple[AttackPrecision, AttackPrecision] = ("fp32", "bf16")


class Plan(NamedTuple):
    """How a model is trained: PGD-AT with Adam and an average of the weights."""

    data: Name
    classes: int = 10
    width: float = 0.25
    images: int = 10_000
    epochs: int = 6
    steps: int = 7
    ramp: float = 0.0
    decay: float = 0.99


MODELS = {
    "CIFAR-10, ResNet-18": Plan("cifar10", steps=3),
    "CIFAR-10 in two, ResNet-18": Plan("cifar10", classes=2, steps=3),
    "MNIST, LeNet": Plan("mnist", ramp=2, decay=0.999),
    "MNIST in two, LeNet": Plan("mnist", classes=2, ramp=2, decay=0.999),
}
PAIRS = {
    "mnist": Plan("mnist", images=30_000, epochs=4, ramp=2, decay=0.999),
    "cifar10": Plan("cifar10", images=5000, epochs=5),
}


def trained(plan: Plan, path: Path, *, seed: int, precision: AttackPrecision, root: Path | None) -> nn.Module:
    """The model whose weights are at the path, or trained here."""
    torch.manual_seed(seed)
    model, threat = network(plan.data, plan.classes, width=plan.width), THREATS[plan.data]
    if not path.exists():
        data, _ = images(plan.data, plan.images, 1, root)
        loader = ImageLoader(regroup(data, plan.classes), batch_size=64, seed=seed, drop_last=True)
        fit(
            model,
            loader,
            Objective(PGDAT(threat, steps=plan.steps, ramp_epochs=plan.ramp)),
            epochs=plan.epochs,
            optimizer=torch.optim.Adam(model.parameters(), lr=2e-3),
            averaging=plan.decay,
            memory_format="channels_last" if plan.data == "cifar10" and plan.width >= 0.25 else None,
            attack_precision=precision,
            seed=seed,
            progress=False,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    model.load_state_dict(load_file(path))
    return model.eval()


def left(model: nn.Module, data: ImageData, plan: Plan, precision: AttackPrecision) -> tuple[Tensor, float]:
    """Which images AutoAttack leaves right, and processor seconds."""
    started = time.process_time()
    report = evaluate(model, data, {"aa": AutoAttack(THREATS[plan.data])}, attack_precision=precision)
    return report["aa"].correct_mask, time.process_time() - started


def left_by_pyautoattack(model: nn.Module, data: ImageData, plan: Plan) -> tuple[Tensor, float]:
    started = time.process_time()
    logits, x, y = Logits(model), data.images.float() / 255, data.labels
    with torch.no_grad():
        x_adv = pyautoattack_whole(logits, x, y, eps=THREATS[plan.data].eps, norm="Linf")
        right = logits(x_adv).argmax(1) == y
    return right, time.process_time() - started


def compare_attacks(given: argparse.Namespace) -> None:
    """A row for each model; times are of the first images, on which the sides take turns."""
    print(
        "| model | clean | fp32 | bf16 | of images | differ | pyautoattack | of images | its time | fp32 | bf16 |\n"
        + "| --- " * 11
        + "|",
        flush=True,
    )
    for name in given.names or MODELS:
        plan = MODELS[name]._replace(width=given.width)
        path = given.folder / f"{name.replace(', ', '-').replace(' ', '-').lower()}.safetensors"
        model = trained(plan, path, seed=0, precision="fp32", root=given.root)
        test = regroup(images(plan.data, 1, given.images, given.root)[1], plan.classes)
        right: dict[str, list[Tensor]] = {}
        seconds: dict[str, list[float]] = {}
        sides = {precision: partial(left, precision=precision) for precision in BOTH}
        for start in range(0, len(test), given.turn):
            part = test.subset(torch.arange(start, min(start + given.turn, len(test))))
            timed = start < given.timed
            for side, attack in {**sides, **({"other": left_by_pyautoattack} if timed else {})}.items():
                if side == "other" and plan.classes < 10:
                    continue  # its standard version needs four classes
                correct, took = attack(model, part, plan)
                right.setdefault(side, []).append(correct)
                if timed:
                    seconds.setdefault(side, []).append(took)
        masks = {side: torch.cat(parts) for side, parts in right.items()}
        clean = evaluate(model, test, ["clean"])["clean"].accuracy
        differ = int((masks["fp32"] != masks["bf16"]).sum())
        accuracy = {side: f"{100 * mask.float().mean():.1f}" for side, mask in masks.items()}
        base = seconds.get("other", seconds["fp32"])
        ratios = [f"{sum(seconds[side]) / sum(base):.2f}" for side in BOTH]
        ratios[1] = ratios[1] if units() else "-"
        other = [accuracy["other"], str(len(masks["other"])), f"{sum(base):.0f} s"] if "other" in masks else ["-"] * 3
        cells = [name, f"{100 * clean:.1f}", *(accuracy[side] for side in BOTH), str(len(test)), str(differ), *other]
        print(f"| {' | '.join([*cells, *ratios])} |", flush=True)


def compare_training(given: argparse.Namespace) -> None:
    """A row for each seed, and the mean difference with both intervals."""
    print("| data | seed | fp32 | bf16 | bf16 - fp32 | only fp32 | only bf16 |\n" + "| --- " * 7 + "|", flush=True)
    for name in given.names or PAIRS:
        plan, found = PAIRS[name]._replace(width=given.width), []
        test = images(plan.data, 1, given.images, given.root)[1]
        for seed in given.seeds:
            masks = []
            for precision in BOTH:
                path = given.folder / f"{name}-{precision}-{seed}.safetensors"
                model = trained(plan, path, seed=seed, precision=precision, root=given.root)
                masks.append(left(model, test, plan, "fp32")[0])
            found.append(Paired.of(*masks))
            accuracy = " | ".join(f"{100 * mask.float().mean():.1f}" for mask in masks)
            counts = f"{found[-1].only_first} | {found[-1].only_second}"
            print(f"| {name} | {seed} | {accuracy} | {100 * found[-1].difference:+.2f} | {counts} |", flush=True)
        print(f"\n{name}: {summary(found)}\n", flush=True)


def summary(found: list[Paired]) -> str:
    """The mean difference in points, its interval over seeds (Student's t) and over images."""
    differences = [100 * pair.difference for pair in found]
    mean = fmean(differences)
    whole = Paired(*(sum(counts) for counts in zip(*found, strict=True)))
    low, high = (100 * end for end in whole.interval())
    text = f"mean difference {mean:+.2f} points; over images [{low:+.2f}, {high:+.2f}]"
    if len(found) > 1:
        reach = float(t.ppf(0.975, len(found) - 1)) * stdev(differences) / math.sqrt(len(found))
        text += f", over seeds [{mean - reach:+.2f}, {mean + reach:+.2f}]"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("part", choices=("autoattack", "training"))
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(map(repr, MODELS))}; or of {', '.join(NAMES)}")
    parser.add_argument("--folder", type=Path, default=Path("runs/precision"), help="where weights are kept")
    parser.add_argument("--images", type=int, default=1000, help="test images")
    parser.add_argument("--timed", type=int, default=200, help="so many of them are timed, also under pyautoattack")
    parser.add_argument("--turn", type=int, default=100, help="images of each side's turn")
    parser.add_argument("--width", type=float, default=0.25, help="of ResNet-18")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--root", type=Path, help="folder with data; default PROTOAT_DATA")
    given = parser.parse_args()
    print(f"processor: {processor()}; its units for bfloat16: {', '.join(units()) or 'none, so it is simulated'}\n")
    with nullcontext() if units() else patch.object(torch, "autocast", Autocast):
        compare_attacks(given) if given.part == "autoattack" else compare_training(given)


if __name__ == "__main__":
    main()
