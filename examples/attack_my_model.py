"""Attack your own model
=====================

PGD, Square and AutoAttack on plain tensors, and what succeeded::

    python examples/attack_my_model.py

An attack calls any module that takes images in [0, 1] and returns logits. It gives back `x_adv`, images within the
radius; `correct`, whether the model still gives the true label; and `success`: untargeted, that it does not, which is
also so of images that it got wrong before; with targets, that it gives the target.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import protoat as pa

pixels, labels = load_digits(return_X_y=True)
images = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)  # in [0, 1]
classes = torch.tensor(labels)
x, y = images[-100:], classes[-100:]

torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(100):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images[:-100]), classes[:-100]).backward()
    optimizer.step()

model.eval()
right = model(x).argmax(1) == y
print(f"clean accuracy {right.float().mean():.1%}")

threat = pa.Linf(0.1)
attacks = {
    "PGD-20": pa.PGD(threat, steps=20),
    "Square, 300 queries": pa.Square(threat, queries=300),
    "AutoAttack": pa.AutoAttack(threat),
}
for name, attack in attacks.items():
    result = attack(model, x, y)
    broken = result.success & right
    print(f"{name}: accuracy {result.correct.float().mean():.1%}, {int(broken.sum())} images newly broken")

targeted = attacks["PGD-20"](model, x, y, targets=(y + 1) % 10)
print(f"PGD-20 towards the next class: {targeted.success.float().mean():.1%} reach it")
