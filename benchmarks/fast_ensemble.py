"""`aa-fast` beside AutoAttack on small models, sound ones and cheats: accuracy, processor time and alarms.

    PROTOAT_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.fast_ensemble

Trains each model (seconds to a minute), measures both attacks on the same test images and prints a row of a Markdown
table at once. Time is processor time, so other work on the machine disturbs it little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from protoat import (
    MNIST,
    AutoAttack,
    Digits,
    FastEnsemble,
    ImageData,
    ImageLoader,
    LeNet,
    Linf,
    Objective,
    evaluate,
    fit,
    parameter_groups,
    regroup,
)
from protoat.methods import FGSMAT, NFGSM, PGDAT, TRADES, Method, Standard
from protoat.regularizers import SoftTriple
from protoat.threats import ThreatModel
from tests.evaluation import cheats


class Case(NamedTuple):
    """A model, the images it is measured on, and the threat model."""

    model: nn.Module
    images: ImageData
    threat: ThreatModel


def trained(
    method: Callable[[ThreatModel], Method],
    *,
    classes: int = 10,
    prototypes: int = 0,
    mnist: bool = False,
    eps: float = 0.1,
    epochs: int = 12,
    count: int = 10_000,
) -> Case:
    """A LeNet on 8x8 digits, or on the first images of MNIST."""
    source = MNIST() if mnist else Digits()
    train, test = (source.load("train"), source.load("test"))
    train = train.subset(torch.arange(min(count, len(train))))
    if classes < 10:
        train, test = regroup(train, classes), regroup(test, classes)
    torch.manual_seed(0)
    model, threat = LeNet(classes, 1, train.shape[1]), Linf(eps)
    regularizer = SoftTriple(classes, 100, prototypes_per_class=prototypes) if prototypes else None
    objective = Objective(method(threat), regularizer)
    optimizer = torch.optim.Adam(parameter_groups(model, objective, lr=2e-3))
    loader = ImageLoader(train, batch_size=64, origins=objective.method.per_image)
    fit(model, loader, objective, epochs=epochs, optimizer=optimizer, progress=False)
    return Case(model.eval(), test, threat)


def cheat(build: Callable[[], nn.Module]) -> Case:
    """A defence that only looks like one, of the tests of the audit."""
    return Case(build(), Digits().load("test"), cheats.THREAT)


PGD7, SMALL = partial(PGDAT, steps=7), {"mnist": True, "eps": 0.2, "epochs": 4}
CASES: dict[str, Callable[[], Case]] = {
    "digits, normal": partial(trained, Standard),
    "digits, PGD-AT": partial(trained, PGD7),
    "digits, SoftTriple": partial(trained, PGD7, prototypes=5),
    "digits, TRADES": partial(trained, TRADES),
    "digits, N-FGSM": partial(trained, NFGSM),
    "digits in two, PGD-AT": partial(trained, PGD7, classes=2),
    "digits in two, SoftTriple": partial(trained, PGD7, classes=2, prototypes=5),
    "MNIST, PGD-AT": partial(trained, PGD7, **SMALL),
    # Without a ramp it stays a constant answer.
    "MNIST in two, PGD-AT": partial(trained, partial(PGD7, ramp_epochs=2), classes=2, **SMALL),
    "MNIST, FGSM-AT, collapsed": partial(trained, FGSMAT, mnist=True, eps=0.3, epochs=6),
    "cheat: random noise": partial(cheat, lambda: cheats.Noisy(cheats.trained(None), 0.3).eval()),
    "cheat: quantised input": partial(cheat, lambda: cheats.Quantised(cheats.trained(None), 3).eval()),
    "cheat: saturated logits": partial(cheat, lambda: cheats.Saturated(cheats.trained(None), 1000.0).eval()),
    "cheat: distillation": partial(cheat, cheats.distilled),
    "cheat: batch statistics": partial(cheat, lambda: cheats.trained(None, cheats.BatchStatistics)),
    "cheat: train mode": partial(cheat, lambda: cheats.trained(None, dropout=0.5, epochs=7).train()),
}


def row(name: str, images: int) -> str:
    """One row of the table."""
    case = CASES[name]()
    found = {}
    for attack in (AutoAttack(case.threat), FastEnsemble(case.threat)):
        torch.manual_seed(0)
        started = time.process_time()
        report = evaluate(case.model, case.images, {"it": attack}, limit=images)
        found[type(attack).__name__] = report, time.process_time() - started
    (whole, long), (fast, short) = found["AutoAttack"], found["FastEnsemble"]
    figures = [f"{100 * report['it'].accuracy:.1f}" for report in (whole, fast)]
    alarms = "; ".join(fast["it"].alarms or ()) or "none"
    clean = f"{100 * whole['clean'].accuracy:.1f}"
    return f"| {name} | {clean} | {' | '.join(figures)} | {long:.1f} s | {short / long:.2f} | {alarms} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fast_ensemble", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(CASES), help="some of the models")
    parser.add_argument("--images", type=int, default=500, help="test images; at most as many are measured")
    given = parser.parse_args()
    print(
        "| model | clean | AutoAttack | aa-fast | AutoAttack takes | time | alarms |\n" + "| --- " * 7 + "|", flush=True
    )
    for name in given.names:
        print(row(name, given.images), flush=True)


if __name__ == "__main__":
    main()
