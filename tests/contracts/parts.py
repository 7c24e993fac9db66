"""What the contracts of attacks and methods share: all classes, a small network, and a look at its whole state."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from inspect import isabstract
from types import ModuleType
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from protoat.types import Output

T = TypeVar("T")


def concrete(base: type[T], package: ModuleType) -> list[type[T]]:
    """Every subclass of `base` in `package` that can be built, by name; nothing has to be registered."""
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        import_module(module.name)

    def below(kind: type[T]) -> Iterator[type[T]]:
        for sub in kind.__subclasses__():
            yield sub
            yield from below(sub)

    inside = f"{package.__name__}."
    found = {kind for kind in below(base) if kind.__module__.startswith(inside) and not isabstract(kind)}
    return sorted(found, key=lambda kind: kind.__name__)


class Net(nn.Module):
    """Digits of 8 x 8 to logits and an embedding, with everything an attack or a method could leave changed."""

    def __init__(self, classes: int, channels: int = 1) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, 2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.1),
        )
        self.head = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Output:
        embedding = self.features(x)
        return Output(self.head(embedding), embedding)


class Logits(nn.Module):
    """A network of the ordinary kind, which returns a tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).logits


@cache
def _weights(classes: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    x, y = x[y < classes], y[y < classes]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net(classes).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(80):
            rows = torch.randint(64, len(x), (64,))
            noisy = (x[rows] + torch.empty_like(x[rows]).uniform_(-0.15, 0.15)).clamp(0, 1)
            optimizer.zero_grad()
            F.cross_entropy(model(noisy).logits, y[rows]).backward()
            optimizer.step()
    return model.state_dict(), x[:64], y[:64]


def trained(classes: int = 4, count: int = 12) -> tuple[Net, Tensor, Tensor]:
    """A network that knows its digits, in eval mode, with images it was not trained on and their labels."""
    weights, x, y = _weights(classes)
    model = Net(classes).eval()
    model.load_state_dict(weights)
    return model, x[:count].clone(), y[:count].clone()


def world(model: nn.Module) -> dict[str, Any]:
    """Everything that a guest must leave as it was."""
    state: dict[str, Any] = {f"value {name}": value.clone() for name, value in model.state_dict().items()}
    state |= {f"wants gradient {name}": p.requires_grad for name, p in model.named_parameters()}
    state |= {f"gradient {name}": None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    state |= {f"identity {name}": id(p) for name, p in model.named_parameters()}
    for name, module in model.named_modules():
        state[f"attributes {name}"] = {key: value for key, value in vars(module).items() if not key.startswith("_")}
        state[f"hooks {name}"] = (len(module._forward_hooks), len(module._forward_pre_hooks))
    return state | {"random state": torch.get_rng_state()}


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of what is not as it was."""

    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else bool(a == b)

    return [key for key in before.keys() | after.keys() if not same(before.get(key), after.get(key))]
