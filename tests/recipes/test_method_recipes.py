"""Recipes of methods and regularizers: laid over that of a data set they hold the published values, and train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from protoat.cli import main
from protoat.data import Digits, ImageData
from protoat.recipes.reading import read_recipe, recipe_parser
from protoat.recipes.shipped import overlay_names, recipe_names
from protoat.runs.train import train


def rival(name: str, lr: float, decay: float, epochs: int, drops: list[int] | None, *, batch: int = 128, **given: Any):
    arguments = {f"method.{key.replace('__', '.')}": value for key, value in given.items()}
    schedule = {"schedule": "StepDecay", "schedule.milestones": drops, "schedule.factor": 0.1} if drops else {}
    length = {"epochs": epochs, "batch_size": batch, "regularizer": None}
    return {"method": name, "optimizer.lr": lr, "optimizer.weight_decay": decay, **arguments, **schedule, **length}


def metric(name: str, weight: float = 0.5, **given: Any) -> dict[str, Any]:
    arguments = {f"regularizer.{key}": value for key, value in given.items()}
    return {"regularizer": name, "weight": weight, "method": "PGDAT", "epochs": 120, **arguments}


KL10 = {"steps": 10, "step_size": 0.007}
PGD10 = {"steps": 10, "step_size": "2/255"}
INSIDE = {"method__steps": 10, "method__step_size": "2/255"}
# From the papers and codes that each file names.
PUBLISHED: dict[str, dict[str, Any]] = {
    "atta": rival("ATTA", 0.1, 2e-4, 38, [29, 35], batch=64, steps=10, step_size=0.007, reset_epochs=10),
    "atta-mnist": rival("ATTA", 0.01, 0, 60, [54], steps=1, step_size=0.01, reset_epochs=None),
    "awp": rival("AWP", 0.1, 5e-4, 200, [100, 150], gamma=0.01, start_epoch=0, method="PGDAT", **INSIDE),
    "biamat": rival("BiaMAT", 0.1, 5e-4, 110, [99, 104], alpha=0.5, gamma=0.5, beta=6, warmup_epochs=5, **KL10),
    "cfa": rival("CFA", 0.1, 5e-4, 200, [100, 150], beta=None, eps_offset=0.5, start_epoch=10, **PGD10)
    | {"averaging": "FAWA", "averaging.threshold": 0.2, "averaging.decay": 0.88},
    "dajat": rival("AWP", 0.2, 5e-4, 200, None, gamma=0.005, start_epoch=9, method="DAJAT", method__beta=11)
    | {"method.method.js_weight": 2, "method.method.steps": 2, "averaging.decay": 0.9996, "averaging.start_epoch": 150},
    "distillation": rival("Distillation", 0.1, 0, 100, None, temperature=20, teacher_epochs=None)
    | {"optimizer.momentum": 0.5, "schedule": None},
    "fast": rival("FastAT", 0.2, 5e-4, 15, None, step_size="10/255") | {"schedule": "Cyclic", "schedule.peak": 0.5},
    "fast-mnist": rival("FastAT", 5e-3, 0, 10, None, batch=100, step_size=0.375)
    | {"optimizer": "Adam", "schedule.peak": 0.4},
    "fgsm": {"method": "FGSMAT", "regularizer": None},
    "fgsm-pgi": rival("FGSMPGI", 0.1, 5e-4, 110, [100, 105], prior="momentum", consistency=10, reset_epochs=40)
    | {"method.step_size": "8/255", "method.decay": 0.3, "method.bn": "train", "label_smoothing": 0.444},
    "free": rival("FreeAT", 0.1, 2e-4, 26, [13, 19], replays=8),
    "mart": rival("MART", 0.01, 3.5e-3, 120, [74, 89, 99], beta=5, **KL10),
    "n-fgsm": rival("NFGSM", 0.2, 5e-4, 30, None, noise=2, step_size="8/255", bn="train")
    | {"schedule": "Cyclic", "schedule.peak": 0.5},
    "n-fgsm-mnist": rival("NFGSM", 1e-2, 0, 10, None, noise=1, clip_noise=False, ramp_epochs=3)
    | {"optimizer": "Adam", "schedule.peak": 0.4},
    "npair": metric("NPair", pairs_per_class=None, normalize=False),
    "nuat": rival("NuAT", 0.1, 5e-4, 100, None, batch=64, nuclear_weight=4.5, start=0.5)
    | {"schedule": "Cyclic", "schedule.peak": 0.4},
    "nuat-mnist": rival("NuAT", 5e-3, 0, 10, None, nuclear_weight=4.5, start=1.0, ramp_epochs=3)
    | {"optimizer": "Adam", "schedule.peak": 0.4},
    "pgd": rival("PGDAT", 0.1, 2e-4, 205, [102, 154], steps=7, step_size="2/255", bn="train"),
    "pgd-mnist": rival("PGDAT", 1e-4, 0, 83, None, batch=50, steps=40, step_size=0.01)
    | {"optimizer": "Adam", "schedule": None},
    "proxy-anchor": metric("ProxyAnchor", margin=0.1, alpha=32),
    "proxy-nca": metric("ProxyNCA", softmax_scale=32),
    "single-mode": metric("SoftTriple", prototypes_per_class=1),
    "standard": {"method": "Standard", "regularizer": None},
    "strong": {"method": "PGDAT", "method.steps": 10, "averaging.decay": 0.9995, "label_smoothing": 0.4},
    "strong-mnist": {"method": "PGDAT", "method.steps": 20, "method.ramp_epochs": 5, "averaging.decay": 0.9995},
    "tla": metric("TLA", 2, triplets="both", margin=0.03, margin_same_image=0.03, norm_reg=1e-3),
    "tla-mnist": metric("TLA", triplets="A1_Ap_B", margin=0.05, norm_reg=1e-4),
    "tla-tiny-imagenet": metric("TLA", margin=0.02, margin_same_image=0.6, norm_reg=1e-3, match_l2=1.0),
    "trades": rival("TRADES", 0.1, 2e-4, 76, [74], beta=6, **KL10),
    "trades-awp": rival("AWP", 0.1, 5e-4, 200, [99, 149], gamma=0.005, start_epoch=9, method="TRADES", **INSIDE),
    "trades-cfa": rival("CFA", 0.1, 5e-4, 200, [100, 150], beta=6, beta_offset=0.5, start_epoch=10, **PGD10),
    "trades-mnist": rival("TRADES", 0.01, 0, 100, [54, 74, 89], beta=1, steps=40, step_size=0.01),
    "triplet": metric("Triplet", margin=0.05),
}


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """A recipe's values by dotted key; a class stands by its short name under the key of its part."""
    if not isinstance(value, dict):
        return {key: value}
    found = {key: value["class_path"].rpartition(".")[2]} if "class_path" in value else {}
    for name, entry in {**value, **value.get("init_args", {})}.items():
        if name not in ("class_path", "init_args"):
            found |= flat(entry, f"{key}.{name}" if key else name)
    return found


def values(data: str, *names: str) -> dict[str, Any]:
    return flat(yaml.safe_load(read_recipe(data, [word for name in names for word in ("--config", name)]).text))


def test_every_method_and_regularizer_has_a_recipe_and_every_recipe_is_checked() -> None:
    assert set(overlay_names()) == set(PUBLISHED)
    assert not set(overlay_names()) & set(recipe_names())
    used = {PUBLISHED[name].get(key) for name in PUBLISHED for key in ("method", "method.method", "regularizer")}
    for kind in ("method", "regularizer"):
        assert set(recipe_parser().choices(kind)) - {"none"} <= used


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_holds_the_published_values(name: str) -> None:
    found = values("cifar10", name)
    assert {key: found[key] for key in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Digits.read

    def few(self: Digits, split: str) -> ImageData:
        data = read(self, split)
        return ImageData(data.images[:48], data.labels[:48], data.class_names)

    monkeypatch.setattr(Digits, "read", few)
    short = ["--epochs", "1", "--batch_size", "20", "--validation_size", "8"]
    auxiliary = ["--method.auxiliary", "Digits"] if name == "biamat" else []
    recipe = read_recipe("digits", ["--config", name, *short, *auxiliary])
    assert train(recipe, tmp_path / "run").updates == 2 * (8 if name == "free" else 1)


def test_a_method_and_a_regularizer_over_one_another() -> None:
    found = values("cifar10-2", "trades", "tla")
    assert (found["method"], found["regularizer"], found["weight"], found["groups"]) == ("TRADES", "TLA", 2, 2)


def test_what_is_not_written_stays_the_data_sets() -> None:
    data = values("cifar10-2")
    for key, value in values("cifar10-2", "npair").items():
        assert key.startswith("regularizer") or value == data[key], key


def test_another_class_starts_anew_but_for_the_ramp_of_all_methods(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("method: {class_path: FastAT}\noptimizer: {class_path: Adam}\n")
    found = values("mnist-2", str(tmp_path / "mine.yaml"))
    assert (found["method.step_size"], found["method.ramp_epochs"], found["optimizer.lr"]) == (None, 5, 1e-3)
    assert values("mnist-2", "awp")["method.ramp_epochs"] == 5


def test_the_folder_is_named_after_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["--epochs", "1", "--batch_size", "512", "--validation_size", "0"]
    assert main(["train", "--config", "digits", "--config", "free", *short, "--method.replays", "1"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("digits-free-")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--config trades", "recipe 'trades' changes that of a data set; write --config cifar10 --config trades"),
        ("--config digits --config trade", "recipe 'trade' is unknown; did you mean 'trades'?"),
    ],
)
def test_mistakes(args: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *args.split()]) == 2
    assert message in capsys.readouterr().err
