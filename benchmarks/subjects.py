"""What several benchmarks train on: MNIST with the small network, CIFAR-10 with a narrow ResNet-18."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from protoat import CIFAR10, MNIST, ImageData, ImageFolder, LeNet, Linf, ResNet18
from protoat.evaluation.order import fair_order
from protoat.threats import ThreatModel

Name = Literal["mnist", "cifar10"]
NAMES: tuple[Name, ...] = ("mnist", "cifar10")
THREATS: dict[Name, ThreatModel] = {"mnist": Linf(0.3), "cifar10": Linf("8/255")}


def images(name: Name, train: int, test: int, root: Path | None = None) -> tuple[ImageData, ImageData]:
    """So many training and test images, of each class its share; CIFAR-10 also as pictures in `cifar10-images`."""
    source = MNIST(root=root) if name == "mnist" else CIFAR10(root=root)
    if name == "cifar10" and not source.available():
        source = ImageFolder(path="cifar10-images", root=root)
    halves = source.load("train"), source.load("test")
    return some(halves[0], train), some(halves[1], test)


def some(data: ImageData, count: int) -> ImageData:
    """The first images of the order in which `evaluate` takes them."""
    return data.subset(fair_order(data)[:count])


def network(name: Name, classes: int = 10, *, width: float = 0.25) -> nn.Module:
    """With the weights that the seed of torch gives it; `width` is ResNet-18's, from a quarter in channels last."""
    if name == "mnist":
        return LeNet(classes)
    build = partial(ResNet18, mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616))
    network = build(classes, width=width)
    return network.to(memory_format=torch.channels_last) if width >= 0.25 else network
