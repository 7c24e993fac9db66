"""A network, data and objectives small enough to train in a second; shared by the tests and the programs they start."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from protoat.data import ImageData, ImageLoader
from protoat.methods import FGSMAT, PGDAT, FastAT, FreeAT, Standard
from protoat.models import MultiPrototypeHead
from protoat.modes import DiscoveredModes, KnownModes
from protoat.objective import Objective
from protoat.pretraining import ACL, Contrastive, RoCL
from protoat.regularizers import SoftTriple
from protoat.threats import Linf
from protoat.training import Cyclic, FitResult, fit, parameter_groups
from protoat.types import Output

THREAT = Linf(0.15)


class Net(nn.Module):
    """Batch norm and dropout, so that both running statistics and random state matter."""

    def __init__(self, dropout: float = 0.1, width: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(16 * width, 16),
            nn.ReLU(),
        )
        self.embedding_dim = 16
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Output:
        embedding = self.features(x)
        return Output(self.head(embedding), embedding)


@cache
def raw_digits() -> Any:
    return load_digits()


def digits(first: int, last: int) -> ImageData:
    raw = raw_digits()
    images = (torch.from_numpy(raw.images)[first:last, None] * 15.9375).round().to(torch.uint8)
    names = tuple(map(str, range(10)))
    return ImageData(images, torch.from_numpy(raw.target)[first:last].long(), names)


def in_modes(count: int = 200) -> ImageData:
    """The same images, where each class has two modes and each fifth image is of unknown mode."""
    data = digits(0, count)
    of_image = 3 * data.labels + torch.tensor([0, 1, 0, 1, 2] * (count // 5))
    names = tuple(f"{name}/{mode}" for name in data.class_names for mode in ("a", "b", "(unknown)"))
    return ImageData(data.images, data.labels, data.class_names, of_image, names)


def loader(count: int = 200, batch_size: int = 40, **options: Any) -> ImageLoader:
    return ImageLoader(digits(0, count), batch_size=batch_size, seed=3, **options)


METHODS = {
    "fgsm": lambda: FGSMAT(THREAT),
    "standard": lambda: Standard(THREAT),
    "pgd": lambda: PGDAT(THREAT, steps=2, ramp_epochs=1),
    "free": lambda: FreeAT(THREAT, replays=2),
    "head": lambda: PGDAT(THREAT, steps=2),
    "fast": lambda: FastAT(THREAT),
    "acl": lambda: ACL(THREAT, steps=2, width=8),
    "acl-a2a": lambda: ACL(THREAT, mode="A2A", steps=2, width=8),
    "rocl": lambda: RoCL(THREAT, steps=2, hidden=12, out=8),
}


MODES = {
    "known": lambda: KnownModes(in_modes(), mode_ramp=0.5, mode_stop=0.9),
    "discovered": lambda: DiscoveredModes(digits(0, 200), clusters=2, balanced=True),
}


def objective(method: str = "pgd") -> Objective:
    if method in MODES:
        return Objective(METHODS["pgd"](), modes=MODES[method]())
    how = METHODS[method]()
    if isinstance(how, Contrastive):
        return Objective(how)
    # A threshold this high merges prototypes in every epoch from the second on.
    often = {"merge_threshold": 1.3, "merge_start": 0.3}
    metric = SoftTriple(10, 16, prototypes_per_class=4, projection=None, drop_below=None, **often)
    return Objective(how, metric, weight=0.5, norm_weight=0.001)


def built(method: str = "pgd") -> tuple[Net, Objective, torch.optim.Optimizer]:
    torch.manual_seed(7)
    net, goal = Net(), objective(method)
    if isinstance(goal.method, Contrastive):
        net = goal.method.encoder(net)
    if goal.modes is not None:
        net.head = MultiPrototypeHead(16, 10, prototypes_per_class=2)
    if method == "head":
        net.head = MultiPrototypeHead(16, 10, prototypes_per_class=4, merge_threshold=1.2, merge_start=0.3)
    groups = parameter_groups(net, goal, lr=0.1, prototype_lr_factor=2.0, weight_decay=5e-4)
    return net, goal, torch.optim.SGD(groups, momentum=0.9)


def train(method: str, out: Path | str | None, **options: Any) -> FitResult:
    """The same run every time; `options` change it."""
    net, goal, optimizer = built(method)
    settings: dict[str, Any] = {
        "epochs": 4,
        "schedule": Cyclic(),
        "validation": digits(200, 260),
        "loggers": [],
        "checkpoint_every": None if out is None else 2,
        "optimizer": optimizer,
        "out": out,
        "seed": 11,
    }
    batches = options.pop("train") if "train" in options else loader(origins=goal.per_image)
    return fit(net, batches, goal, **settings | options)


def outcome(out: Path) -> tuple[dict[str, Tensor], list[dict[str, Any]], dict[str, Any]]:
    """Everything a run left behind apart from how long it took: tensors, lines of the log, state."""
    newest = max((out / "checkpoints").iterdir())
    files = [*newest.glob("*.safetensors"), *out.glob("*.safetensors")]
    tensors = {f"{file.name}:{key}": value for file in files for key, value in load_file(file).items()}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    state = json.loads((newest / "state.json").read_text())["state"]
    for line in [*lines, *state["run"]["history"]]:
        del line["seconds"]
    del state["run"]["seconds"], state["files"]
    return tensors, lines, state


def assert_same_outcome(out: Path, expected: Path) -> None:
    tensors, lines, state = outcome(out)
    expected_tensors, expected_lines, expected_state = outcome(expected)
    assert tensors.keys() == expected_tensors.keys()
    for key, value in tensors.items():
        assert torch.equal(value, expected_tensors[key]), key
    assert lines == expected_lines
    assert state == expected_state
    names, expected_names = (sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (out, expected))
    assert names == expected_names
