"""Fine-tune on folders of pictures
================================

A network of your own, pictures in `class/mode/*.png`, robust accuracy for each mode::

    python examples/finetune_folders.py pictures --weights mine.pt --out runs/mine

Without a folder, digits are written into one: two classes of five modes each. A fifth of each mode is held out for
testing, unless there are folders `train` and `test`. With `--out` it goes on where it was killed.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import nn
from torchvision.io import write_png

import protoat as pa

parser = argparse.ArgumentParser()
parser.add_argument("folder", nargs="?", default=tempfile.mkdtemp())
parser.add_argument("--weights", help="a state dictionary to begin from, as torch.save wrote it")
parser.add_argument("--size", type=int, default=8, help="pixels a side, to which pictures are brought")
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--out", help="where checkpoints and metrics go")
args = parser.parse_args()

if not any(Path(args.folder).iterdir()):
    digits = pa.regroup(pa.Digits().load("train"), 2)
    for number, (image, label, mode) in enumerate(zip(digits.images, digits.labels, digits.modes, strict=True)):
        place = Path(args.folder, digits.class_names[label], digits.mode_names[mode])
        place.mkdir(parents=True, exist_ok=True)
        write_png(image, str(place / f"{number}.png"))

source = pa.ImageFolder(path=args.folder, image_size=args.size)
images = source.load("train")
train, validation = pa.split_validation(images, len(images) // 10, seed=0)  # these choose the best epoch
network = nn.Sequential(nn.Flatten(), nn.LazyLinear(64), nn.ReLU(), nn.Linear(64, train.num_classes))  # yours
model = pa.with_embedding(network, example=torch.zeros(1, *train.shape))
if args.weights:
    network.load_state_dict(torch.load(args.weights, weights_only=True))

threat = pa.Linf(0.1)
objective = pa.Objective(pa.PGDAT(threat), pa.SoftTriple(train.num_classes, model.embedding_dim))
optimizer = torch.optim.SGD(pa.parameter_groups(model, objective, lr=0.05), momentum=0.9)
loader = pa.ImageLoader(train, batch_size=64)
pa.fit(model, loader, objective, epochs=args.epochs, optimizer=optimizer, validation=validation, out=args.out)

report = pa.evaluate(model, source.load("test"), ["clean", "pgd20"], threat=threat)
for name, count in report["pgd20"].per_mode.items():
    print(f"{name}: {count.accuracy:.1%} of {count.total} images, 95 % interval {count.interval}")
