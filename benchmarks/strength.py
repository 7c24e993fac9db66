"""How much accuracy our attacks leave on MNIST, beside other libraries on the same models, images and budgets.

    PROTOAT_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.strength --folder runs/strength

Takes a normal, a PGD-AT and a SoftTriple model from the runs ``normal``, ``pgd-at`` and ``softtriple`` of the folder,
or trains them once (a few minutes each), and prints a Markdown table. Libraries that are not installed are left out;
`make oracles` brings all of them. Seconds are processor time, so other work on the machine disturbs them little.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from protoat import L2, Linf, Objective, fit
from protoat.attacks import APGD, APGDT, FAB, FABT, PGD, Attack, AutoAttack, CarliniWagnerL2, DeepFool, Square
from protoat.data import MNIST, ImageLoader
from protoat.methods import PGDAT, Standard
from protoat.models import LeNet
from protoat.regularizers import SoftTriple
from protoat.runs.run import Run
from protoat.threats import ThreatModel

Craft = Callable[[nn.Module, Tensor, Tensor], Tensor]

KINDS = ("normal", "pgd-at", "softtriple")
BATCH = 250


class Logits(nn.Module):
    """Other libraries want logits alone; weights are frozen, so that none of them pays for their gradients."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


def trained(kind: str, folder: Path, root: Path | None) -> nn.Module:
    """The model of one kind: of the run of this name in the folder, or trained here unless its weights are there."""
    if (folder / kind / "recipe.yaml").exists():
        return Run(folder / kind).subject().model
    torch.manual_seed(0)
    model, path = LeNet(10, 1, 28), folder / f"{kind}.safetensors"
    if not path.exists():
        method = Standard(Linf(0.3)) if kind == "normal" else PGDAT(Linf(0.3), steps=7, ramp_epochs=2)
        objective = Objective(method, SoftTriple(10, 100) if kind == "softtriple" else None, weight=0.5)
        parameters = [*model.parameters(), *objective.parameters()]
        loader = ImageLoader(MNIST(root=root).load("train"), batch_size=128)
        epochs = 1 if kind == "normal" else 5
        fit(model, loader, objective, epochs=epochs, optimizer=torch.optim.Adam(parameters, lr=2e-3), progress=False)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), path)
    model.load_state_dict(load_file(path))
    return model


def ours(attack: Attack, batch: int = BATCH) -> Craft:
    def craft(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(torch.initial_seed())  # the start that `measure` has set for all
        parts = zip(x.split(batch), y.split(batch), strict=True)
        return torch.cat([attack.perturb(model, *part, generator=generator) for part in parts])

    return craft


def theirs(call: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Craft:
    def craft(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([call(model, *part).detach() for part in zip(x.split(BATCH), y.split(BATCH), strict=True)])

    return craft


def library(name: str) -> Any:
    """A module, or an object whose every use raises ImportError, so that its rows are left out."""
    if name.startswith("adv_lib"):
        # adv-lib imports visdom to plot; nothing is plotted here, and visdom no longer builds.
        sys.modules.setdefault("visdom", ModuleType("visdom"))
    __import__(name)
    return sys.modules[name]


def foolbox_attack(
    name: str, model: nn.Module, x: Tensor, y: Tensor, *, eps: float | None, repeat: int = 1, **settings: Any
) -> Tensor:
    foolbox = library("foolbox")
    attack = getattr(foolbox.attacks, name)(**settings)
    attack = attack if repeat == 1 else attack.repeat(repeat)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return attack(wrapped, x, y, epsilons=eps)[0 if eps is None else 1]


def torchattacks_attack(name: str, model: nn.Module, x: Tensor, y: Tensor, **settings: Any) -> Tensor:
    return getattr(library("torchattacks"), name)(model, **settings)(x, y)


def advlib_attack(module: str, name: str, model: nn.Module, x: Tensor, y: Tensor, **settings: Any) -> Tensor:
    return getattr(library(f"adv_lib.attacks.{module}"), name)(model, x, y, **settings)


def pyautoattack_part(module: str, name: str, model: nn.Module, x: Tensor, y: Tensor, **settings: Any) -> Tensor:
    attack = getattr(library(f"pyautoattack.{module}"), name)(model, seed=0, n_restarts=1, **settings)
    attack.logger = library("logging").getLogger("auto-attack")
    return attack.perturb(x, y)


def pyautoattack_whole(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str) -> Tensor:
    attack = library("pyautoattack").AutoAttack(model, norm=norm, eps=eps, seed=0, version="standard")
    return attack.run_standard_evaluation(x, y, batch_size=BATCH)[0]


def linf_attacks(eps: float) -> dict[str, dict[str, Craft]]:
    threat, py, ta, al = Linf(eps), pyautoattack_part, torchattacks_attack, advlib_attack
    step, norm, inf = 2.5 * eps / 50, {"norm": "Linf", "eps": eps}, {"norm": float("inf"), "eps": eps}
    pgd = {"steps": 50}
    apgd, dlr = {"n_iter": 100, **inf, "loss_function": "ce"}, {"n_iter": 100, **inf, "num_targets": 9}
    return {
        "PGD-50": {
            "ours": ours(PGD(threat, steps=50)),
            "torchattacks": theirs(partial(ta, "PGD", eps=eps, alpha=step, steps=50)),
            "foolbox": theirs(partial(foolbox_attack, "LinfPGD", eps=eps, abs_stepsize=step, **pgd)),
            "adv-lib": theirs(partial(advlib_pgd, eps=eps, step=step, steps=50)),
        },
        "APGD-CE": {
            "ours": ours(APGD(threat)),
            "pyautoattack": theirs(partial(py, "autopgd_base", "APGDAttack", loss="ce", **norm)),
            "torchattacks": theirs(partial(ta, "APGD", **norm, steps=100)),
            "adv-lib": theirs(partial(al, "auto_pgd", "apgd", **apgd)),
        },
        "APGD-T": {
            "ours": ours(APGDT(threat)),
            "pyautoattack": theirs(partial(py, "autopgd_base", "APGDAttack_targeted", **norm)),
            "adv-lib": theirs(partial(al, "auto_pgd", "apgd_targeted", **dlr)),
        },
        "FAB": {
            "ours": ours(FAB(threat, steps=30)),
            "pyautoattack": theirs(partial(py, "fab_pt", "FABAttack_PT", n_iter=30, **norm)),
            "torchattacks": theirs(partial(ta, "FAB", steps=30, **norm)),
        },
        "FAB-T": {
            "ours": ours(FABT(threat)),
            "pyautoattack": theirs(partial(py, "fab_pt", "FABAttack_PT", targeted=True, **norm)),
        },
        "Square-2000": {
            "ours": ours(Square(threat, queries=2000, rescale_schedule=False)),
            "pyautoattack": theirs(partial(py, "square", "SquareAttack", n_queries=2000, resc_schedule=False, **norm)),
            "torchattacks": theirs(partial(ta, "Square", n_queries=2000, resc_schedule=False, **norm)),
        },
        "DeepFool Linf": {
            "ours": ours(DeepFool(threat)),
            "foolbox": theirs(partial(foolbox_attack, "LinfDeepFoolAttack", eps=None, steps=50)),
            "adv-lib": theirs(partial(al, "deepfool", "df", steps=50, norm=float("inf"))),
        },
    }


def advlib_pgd(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, step: float, **settings: int) -> Tensor:
    # The radius of adv-lib's PGD is called by a Greek letter, so it goes by position.
    pgd = library("adv_lib.attacks.projected_gradient_descent").pgd_linf
    return pgd(model, x, y, eps, absolute_step_size=step, **settings)


def l2_attacks(eps: float) -> dict[str, dict[str, Craft]]:
    threat, norm = L2(eps), {"norm": "L2", "eps": eps}
    py, ta, al = pyautoattack_part, torchattacks_attack, advlib_attack
    fast = {"initial_const": 0.1}
    cw = {"learning_rate": 0.05, "max_iterations": 100, "binary_search_steps": 6, **fast}
    fb = {"stepsize": 0.05, "steps": 100, "binary_search_steps": 6, **fast}
    return {
        "PGD-50 L2": {
            "ours": ours(PGD(threat, steps=50)),
            "torchattacks": theirs(partial(ta, "PGDL2", eps=eps, alpha=2.5 * eps / 50, steps=50)),
            "foolbox": theirs(partial(foolbox_attack, "L2PGD", eps=eps, abs_stepsize=2.5 * eps / 50, steps=50)),
        },
        "APGD-CE L2": {
            "ours": ours(APGD(threat)),
            "pyautoattack": theirs(partial(py, "autopgd_base", "APGDAttack", loss="ce", **norm)),
            "torchattacks": theirs(partial(ta, "APGD", steps=100, **norm)),
        },
        "FAB L2": {
            "ours": ours(FAB(threat, steps=30)),
            "pyautoattack": theirs(partial(py, "fab_pt", "FABAttack_PT", n_iter=30, **norm)),
        },
        "Square-2000 L2": {
            "ours": ours(Square(threat, queries=2000, rescale_schedule=False)),
            "pyautoattack": theirs(partial(py, "square", "SquareAttack", n_queries=2000, resc_schedule=False, **norm)),
        },
        "CW-L2": {
            "ours": ours(CarliniWagnerL2(threat, learning_rate=0.05, steps=100, search_steps=6, **fast)),
            "foolbox": theirs(partial(foolbox_attack, "L2CarliniWagnerAttack", eps=None, **fb)),
            "adv-lib": theirs(partial(al, "carlini_wagner.l2", "carlini_wagner_l2", **cw)),
        },
        "DeepFool L2": {
            "ours": ours(DeepFool(threat)),
            "foolbox": theirs(partial(foolbox_attack, "L2DeepFoolAttack", eps=None, steps=50)),
            "adv-lib": theirs(partial(al, "deepfool", "df", steps=50)),
        },
    }


def autoattacks(threat: ThreatModel) -> dict[str, dict[str, Craft]]:
    norm = {"linf": "Linf", "l2": "L2"}[threat.norm]
    return {
        f"AutoAttack {norm}": {
            "ours": ours(AutoAttack(threat, batch_size=BATCH), batch=10**6),
            "pyautoattack": partial(pyautoattack_whole, eps=threat.eps, norm=norm),
        }
    }


def measure(
    craft: Craft, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, starts: int
) -> tuple[float, float]:
    """Accuracy left in per cent and seconds, means over random starts: one start alone may be a lucky one."""
    found = []
    for seed in range(starts):
        torch.manual_seed(seed)
        found.append(_measured(craft, model, x, y, threat))
    return fmean(left for left, _ in found), fmean(seconds for _, seconds in found)


def _measured(craft: Craft, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> tuple[float, float]:
    """Of one start; an image counts as broken only inside the budget."""
    started = time.process_time()
    x_adv = craft(model, x, y)
    seconds = time.process_time() - started
    legal = (threat.geometry.distance(x_adv, x) <= threat.eps * (1 + 1e-5)) & (x_adv.flatten(1).amin(1) >= -1e-6)
    with torch.no_grad():
        right = torch.cat([model(part).argmax(1) for part in x_adv.split(BATCH)]) == y
        clean = torch.cat([model(part).argmax(1) for part in x.split(BATCH)]) == y
    return 100 * torch.where(legal, right, clean).float().mean().item(), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/strength"), help="where weights are kept")
    parser.add_argument("--root", type=Path, help="folder of the data sets (default: PROTOAT_DATA)")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--only", nargs="+", default=[], help="attacks by their names in the table")
    parser.add_argument("--starts", type=int, default=1, help="random starts, whose mean is printed")
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--eps-l2", type=float, default=1.5)
    arguments = parser.parse_args()
    test = MNIST(root=arguments.root).load("test")
    x, y = test.images[: arguments.images].float() / 255, test.labels[: arguments.images]
    linf, l2 = Linf(arguments.eps), L2(arguments.eps_l2)
    groups = [
        (linf, linf_attacks(linf.eps)),
        (l2, l2_attacks(l2.eps)),
        (linf, autoattacks(linf)),
        (l2, autoattacks(l2)),
    ]
    print("| model | attack | ours | best of the others | difference | all others | seconds ours / fastest other |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind in arguments.kinds:
        model = Logits(trained(kind, arguments.folder, arguments.root))
        for threat, attacks in groups:
            for attack, crafts in attacks.items():
                if arguments.only and attack not in arguments.only:
                    continue
                results = {}
                for name, craft in crafts.items():
                    with suppress(ImportError):
                        results[name] = measure(craft, model, x, y, threat, starts=arguments.starts)
                print(row(kind, attack, results), flush=True)


def row(kind: str, attack: str, results: dict[str, tuple[float, float]]) -> str:
    left, seconds = results.pop("ours")
    if not results:
        return f"| {kind} | {attack} | {left:.1f} | - | - | no other library is installed | {seconds:.0f} / - |"
    best = min(value for value, _ in results.values())
    others = ", ".join(f"{name} {value:.1f} ({cost:.0f} s)" for name, (value, cost) in results.items())
    fastest = min(cost for _, cost in results.values())
    return (
        f"| {kind} | {attack} | {left:.1f} | {best:.1f} | {left - best:+.1f} | {others} "
        f"| {seconds:.0f} / {fastest:.0f} = {seconds / max(fastest, 1e-9):.2f} |"
    )


if __name__ == "__main__":
    main()
