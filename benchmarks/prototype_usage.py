"""What makes one prototype take its class: an ablation of `SoftTriple` on sets of two classes of five modes each.

    OMP_NUM_THREADS=1 python -m benchmarks.prototype_usage --seeds 0 1 2 --out usage.json --figure usage.svg
    OMP_NUM_THREADS=1 python -m benchmarks.prototype_usage plain paper projected --data mnist ...

Each variant changes one thing of the two settings `paper` (no projection) and `projected` (batch norm),
both with prototypes at the network's learning rate, which neither merge nor are dropped; `plain` has none. After each
epoch every test image belongs to the nearest prototype of its class, by running statistics. Rows are means over seeds:
share of the images of a class that its largest prototype takes, of both classes, and the largest of all; prototypes
that take 1 % or more; exp of the entropy of the shares; agreement with the true modes (NMI), which training does not
know; accuracy on test images, clean and under PGD on cross-entropy and margin, and that of the worst mode.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

import protoat as pa
from protoat.evaluation.embedding import embed_images
from protoat.functional.cosines import assign
from protoat.functional.images import unit_pixels
from protoat.functional.losses import margin
from protoat.functional.partitions import agreement

PAPER: dict[str, Any] = {"projection": None, "gamma": 0.1, "merge_threshold": 0, "drop_below": None}
PROJECTED: dict[str, Any] = PAPER | {"projection": "batchnorm"}


class Variant(NamedTuple):
    """Arguments of `SoftTriple`, None for none; and what else it changes."""

    metric: Mapping[str, Any] | None
    factor: float = 1.0
    dml_input: Literal["adv", "clean", "both"] = "adv"
    norm_weight: float = 0.005
    before_relu: bool = False


VARIANTS = {
    "plain": Variant(None, norm_weight=0.0),
    "paper": Variant(PAPER),
    "paper, rate x 10": Variant(PAPER, factor=10),
    "paper, rate x 0.1": Variant(PAPER, factor=0.1),
    "paper, tau 0": Variant(PAPER | {"tau": 0.0}),
    "paper, rate x 10, tau 0": Variant(PAPER | {"tau": 0.0}, factor=10),
    "paper, gamma 0.03": Variant(PAPER | {"gamma": 0.03}),
    "paper, gamma 0.3": Variant(PAPER | {"gamma": 0.3}),
    "paper, clean": Variant(PAPER, dml_input="clean"),
    "paper, both": Variant(PAPER, dml_input="both"),
    "paper, no norm term": Variant(PAPER, norm_weight=0.0),
    "paper, before ReLU": Variant(PAPER, before_relu=True),
    "projected": Variant(PROJECTED),
    "projected, rate x 10": Variant(PROJECTED, factor=10),
    "projected, tau 0": Variant(PROJECTED | {"tau": 0.0}),
    "projected, gamma 0.3": Variant(PROJECTED | {"gamma": 0.3}),
    "projected, clean": Variant(PROJECTED, dml_input="clean"),
    "linear+batchnorm": Variant(PROJECTED | {"projection": "linear+batchnorm"}),
    "mlp": Variant(PROJECTED | {"projection": "mlp"}),
    "projected, k-means": Variant(PROJECTED | {"prototype_init": "kmeans"}),
}
COLUMNS = ("largest", "in use", "effective", "NMI", "clean", "robust", "worst mode")


def network(image_size: int, *, before_relu: bool) -> nn.Module:
    """LeNet, whose embedding is what its last ReLU gives, or takes."""
    net = pa.LeNet(2, image_size=image_size)
    if not before_relu:
        return net
    head, features = net.head, net.features
    body = nn.Sequential(*list(features)[:-1], nn.ReLU(), head)
    return pa.with_embedding(body, layer=str(len(features) - 2))


def run(variant: Variant, seed: int, train: pa.ImageData, test: pa.ImageData, given: argparse.Namespace) -> list[Any]:
    """What is measured after each epoch; accuracies after the last one."""
    torch.manual_seed(seed)
    threat = pa.Linf(given.eps)
    method = pa.PGDAT(threat, steps=given.steps, step_size=2.5 * given.eps / given.steps, ramp_epochs=given.ramp)
    metric = None if variant.metric is None else pa.SoftTriple(2, 100, **{"prototypes_per_class": 10, **variant.metric})
    model = network(test.shape[1], before_relu=variant.before_relu)
    objective = pa.Objective(method, metric, norm_weight=variant.norm_weight, dml_input=variant.dml_input)
    groups = pa.parameter_groups(model, objective, lr=given.lr, prototype_lr_factor=variant.factor, weight_decay=5e-4)
    optimizer = torch.optim.SGD(groups, lr=given.lr, momentum=0.9)
    loader = pa.ImageLoader(train, batch_size=given.batch_size, seed=seed)
    rates = torch.optim.lr_scheduler.StepLR(optimizer, max(1, 2 * given.epochs // 3), 0.1)
    found = []
    for epoch in objective.epochs(given.epochs, model, optimizer):
        for x, y in epoch.batches(loader):
            for terms in objective.losses(model, x, y):
                optimizer.zero_grad()
                terms.total.backward()
                optimizer.step()
        rates.step()
        found.append({} if metric is None else usage(model, metric, test))
        model.train()
    found[-1] |= accuracies(model, test, threat)
    return found


def usage(model: nn.Module, metric: pa.SoftTriple, test: pa.ImageData) -> dict[str, Any]:
    """Of each class: the largest share, prototypes in use, effective prototypes, NMI."""
    with torch.no_grad():
        embedding = metric.projected(embed_images(model.eval(), unit_pixels(test.images)).embedding)
    places = assign(embedding, test.labels, metric.prototypes.detach(), metric.active)
    own = [places[test.labels == c] for c in range(2)]
    shares = [part.bincount(minlength=10) / len(part) for part in own]
    return {
        "largest": [float(part.max()) for part in shares],
        "in use": [int((part >= 0.01).sum()) for part in shares],
        "effective": [float(_entropy(part).exp()) for part in shares],
        "NMI": [agreement(part, test.modes[test.labels == c]).nmi for c, part in enumerate(own)],
    }


def _entropy(shares: Tensor) -> Tensor:
    return -(shares * shares.clamp_min(1e-12).log()).sum()


def accuracies(model: nn.Module, test: pa.ImageData, threat: pa.ThreatModel) -> dict[str, Any]:
    """Of the deployed prediction: clean, robust in the worst of two attacks, and that of the worst mode."""
    step = threat.eps / 4
    attacks = {
        "clean": None,
        "cross-entropy": pa.PGD(threat, steps=20, step_size=step),
        "margin": pa.PGD(threat, steps=20, step_size=step, loss=margin),
    }
    report = pa.evaluate(model.eval(), test, attacks)
    worst = report.worst_case
    assert worst is not None
    return {
        "clean": report["clean"].accuracy,
        "robust": worst.accuracy,
        "worst mode": min(count.accuracy for count in worst.per_mode.values()),
    }


def row(name: str, runs: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """The last epoch, mean over seeds; of the two classes where they differ."""
    cells = []
    for column in COLUMNS:
        values = torch.tensor([last[column] for *_, last in runs if column in last])
        if not len(values):
            cells.append("")
            continue
        mean = values.double().mean(0)
        if mean.dim() and column == "largest":
            cells.append(f"{100 * mean[0]:.0f} / {100 * mean[1]:.0f}, most {100 * values.max():.0f}")
        elif mean.dim():
            digits = 2 if column == "NMI" else 1
            cells.append(" / ".join(f"{value:.{digits}f}" for value in mean.tolist()))
        else:
            cells.append(f"{100 * mean:.1f}")
    return f"| {name} | {len(runs)} | {' | '.join(cells)} |"


def draw(found: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], names: Sequence[str]) -> str:
    """Share of the largest prototype, mean over classes and seeds, against epochs, as SVG; 0 is before training."""
    lines = {}
    for name in (name for name in names if name in found and "largest" in found[name][0][0]):
        values = torch.tensor([[epoch["largest"] for epoch in run] for run in found[name]])
        lines[name] = values.mean((0, 2)).tolist()
    width, height, left, top = 760, 380, 60, 40
    epochs = max(map(len, lines.values()))
    colours = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#7f7f7f")
    x = [left + (width - 260) * e / max(1, epochs - 1) for e in range(epochs)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + 70}" font-family="sans-serif" '
        'font-size="13"><rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{left}" y="22" font-size="15">Share of a class that its largest prototype takes, %</text>',
    ]
    for share in range(0, 101, 20):
        y = top + height * (1 - share / 100)
        parts.append(f'<line x1="{left}" x2="{x[-1]:.0f}" y1="{y:.0f}" y2="{y:.0f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{left - 10}" y="{y + 4:.0f}" text-anchor="end">{share}</text>')
    for e in sorted({0, epochs // 2, epochs - 1}):
        parts.append(f'<text x="{x[e]:.0f}" y="{top + height + 20}" text-anchor="middle">{e + 1}</text>')
    parts.append(f'<text x="{(left + x[-1]) / 2:.0f}" y="{top + height + 40}" text-anchor="middle">epoch</text>')
    ends: list[float] = []
    for number, (name, values) in sorted(enumerate(lines.items()), key=lambda item: -item[1][1][-1]):
        colour, dashed = colours[number % 8], ' stroke-dasharray="6 4"' * name.startswith("paper")
        points = " ".join(f"{a:.1f},{top + height * (1 - b):.1f}" for a, b in zip(x, values, strict=False))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>')
        end = max(top + height * (1 - values[-1]) + 4, *(each + 16 for each in ends[-1:]), 0)
        ends.append(end)
        parts.append(f'<text x="{x[-1] + 8:.0f}" y="{end:.0f}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prototype_usage", description=__doc__)
    parser.add_argument("variants", nargs="*", default=list(VARIANTS), help="some of the variants")
    parser.add_argument("--data", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=60_000, help="training images")
    parser.add_argument("--test_images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=3, help="of the training attack")
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--ramp", type=float, default=0.0, help="epochs over which the radius grows")
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--out", type=Path, help="file that keeps what is measured; runs in it are not made again")
    parser.add_argument("--figure", type=Path, help="SVG of the largest share over epochs")
    parser.add_argument("--drawn", nargs="+", help="variants in the figure; default all")
    given = parser.parse_args()
    source = {"digits": pa.Digits, "mnist": pa.MNIST}[given.data]()
    train, test = (pa.regroup(source.load(split), 2) for split in ("train", "test"))
    train, test = (
        d.subset(torch.arange(min(n, len(d)))) for d, n in ((train, given.images), (test, given.test_images))
    )
    kept = json.loads(given.out.read_text()) if given.out and given.out.exists() else {}
    for seed in given.seeds:
        for name in given.variants:
            if f"{name}#{seed}" not in kept:
                kept[f"{name}#{seed}"] = run(VARIANTS[name], seed, train, test, given)
                print(row(f"{name}, seed {seed}", [kept[f"{name}#{seed}"]]), flush=True)
                if given.out:
                    given.out.write_text(json.dumps(kept))
    found = {name: [kept[f"{name}#{seed}"] for seed in given.seeds] for name in given.variants}
    print(f"\n| variant | seeds | {' | '.join(COLUMNS)} |\n|{' --- |' * (2 + len(COLUMNS))}")
    for name, runs in found.items():
        print(row(name, runs))
    if given.figure:
        given.figure.write_text(draw(found, given.drawn or given.variants))


if __name__ == "__main__":
    main()
