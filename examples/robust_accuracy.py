"""Measure robust accuracy
=======================

Evaluates a network of torchvision or timm on the images of any `DataLoader`::

    python examples/robust_accuracy.py --model timm:resnet18 --weights tuned.pt --images pictures/test

Without `--weights` the network is random, and without `--images` (a folder `class/*.png`) random images are measured:
that shows that everything runs, and nothing else. Attacks work on pixels in [0, 1], so the normalisation that the
network was trained with is the first layer of the model, and not a transform of the data.
"""

import argparse
from typing import Any

import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import protoat as pa

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="torchvision:resnet18")
parser.add_argument("--weights", help="a state dictionary, as torch.save wrote it")
parser.add_argument("--images", help="a folder class/*.png")
parser.add_argument("--size", type=int, default=32, help="pixels a side")
parser.add_argument("--attacks", nargs="+", default=["clean", "pgd20", "aa"])
args = parser.parse_args()

transform = v2.Compose([v2.ToImage(), v2.Resize((args.size, args.size)), v2.ToDtype(torch.float32, scale=True)])
images: Any = (
    torchvision.datasets.ImageFolder(args.images, transform)
    if args.images
    else torchvision.datasets.FakeData(64, (3, args.size, args.size), num_classes=10, transform=transform)
)
num_classes = len(images.classes) if args.images else 10

library, _, name = args.model.partition(":")
if library == "timm":
    import timm

    network = timm.create_model(name, num_classes=num_classes)
else:
    network = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
if args.weights:
    network.load_state_dict(torch.load(args.weights, weights_only=True))
model = nn.Sequential(pa.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]), network)

report = pa.evaluate(model, DataLoader(images, batch_size=64), args.attacks, threat=pa.Linf(8 / 255))
print(report)
