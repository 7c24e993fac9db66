"""From a run folder to ``evaluation.json``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState

import protoat
from protoat.attacks import Attack
from protoat.evaluation import Report, attack_of_name, evaluate
from protoat.experiments.parser import Parser
from protoat.experiments.run import load_images, load_run
from protoat.experiments.store import read_run, write
from protoat.types import ThreatModel

__all__ = ["evaluate_run", "named_attacks"]


def named_attacks(names: Sequence[str], threat: ThreatModel) -> dict[str, Attack | None]:
    """Attacks by the names a report gives them.

    Args:
        names: short names (`attack_of_name`), dotted paths of `Attack` classes, or YAML such as
            ``{class_path: PGD, init_args: {steps: 20}}``, which is called after its class.
        threat: norm and radius.

    Raises:
        ValueError: an unknown attack, with the nearest valid name; two attacks of one name.

    >>> list(named_attacks(["clean", "pgd10", "protoat.attacks.FGSM"], ThreatModel(0.3)))
    ['clean', 'pgd10', 'FGSM']
    """
    found = [_attack(name, threat) for name in names]
    repeated = [name for name, times in Counter(name for name, _ in found).items() if times > 1]
    if repeated:
        raise ValueError(f"two attacks are called {repeated[0]!r}; measure them one after the other")
    return dict(found)


def _attack(name: str, threat: ThreatModel) -> tuple[str, Attack | None]:
    if "{" not in name and "." not in name.partition("@")[0]:
        return name, attack_of_name(name, threat)
    parser = Parser()
    parser.add_argument("--attack", type=Callable[[ThreatModel], Attack])
    attack = parser.instantiate(parser.parse_args(["--attack", name])).attack(threat)
    return type(attack).__name__, attack


def evaluate_run(
    folder: Path | str,
    attacks: Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int = 256,
    weights: Literal["best", "last"] | None = None,
    advance: Callable[[str, int], None] | None = None,
) -> Report:
    """Measures a run's model on its test images and adds the result to ``evaluation.json``.

    Attacks measured before stay in the file when they saw the same weights and the same images; otherwise the file
    starts anew, so that the numbers in it can always be compared.

    Args:
        folder: of the run.
        attacks: see `named_attacks`; their threat model is the recipe's `evaluation_threat`, or else `threat`.
        limit, batch_size, advance: see `protoat.evaluate`.
        weights: see `load_run`.

    Raises:
        ValueError: see `load_run`, `named_attacks` and `protoat.evaluate`.
        DataNotFoundError: the test images are not there.
        DiskError: the file cannot be written; the one before is intact.
    """
    model, recipe, path = load_run(folder, weights=weights)
    chosen = named_attacks(attacks, recipe.evaluation_threat or recipe.threat)
    data = load_images(recipe, "test")
    trained_on = read_run(Path(folder)).facts.get("class_names", list(data.class_names))
    if list(data.class_names) != list(trained_on):
        raise ValueError(f"{folder} was trained on classes {trained_on}, and the data now has {list(data.class_names)}")
    report = evaluate(
        model, data, chosen, batch_size=batch_size, limit=limit, device=PartialState().device, advance=advance
    )
    subject = {
        "weights": path.name,
        "sha256": sha256(path.read_bytes()).hexdigest(),
        "data": f"{recipe.data.name} test",
        "images": len(data) if limit is None else min(limit, len(data)),
    }
    _add(Path(folder), subject, report, batch_size)
    return report


def _add(folder: Path, subject: dict[str, Any], report: Report, batch_size: int) -> None:
    stored = read_run(folder).evaluation or {}
    before = stored.get("attacks", {}) if stored.get("subject") == subject else {}
    new = report.to_json()["attacks"]
    for entry in new.values():
        entry |= {"batch_size": batch_size, "protoat": protoat.__version__, "torch": torch.__version__}
    write(folder / "evaluation.json", json.dumps({"subject": subject, "attacks": before | new}, indent=1))
