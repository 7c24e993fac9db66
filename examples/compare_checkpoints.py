"""Compare two checkpoints
=======================

On the same images: which differences are shown, and which are not::

    python examples/compare_checkpoints.py

Only images that one model gets right and the other wrong tell them apart. The exact McNemar test on those is sharper
than looking whether two intervals overlap; one test is made for each attack, so each takes its share of the 5 %. What
is shown is about these two checkpoints: another seed of the same training may differ as much.
"""

import tempfile

import torch

import protoat as pa

train, test = pa.Digits().load("train"), pa.Digits().load("test")
threat = pa.Linf(0.1)
folder = tempfile.mkdtemp()
methods = {"N-FGSM": pa.NFGSM(threat), "Fast": pa.FastAT(threat)}

for name, method in methods.items():
    torch.manual_seed(0)
    model = pa.LeNet(10, in_channels=1, image_size=8)
    objective = pa.Objective(method)
    optimizer = torch.optim.Adam(pa.parameter_groups(model, objective, lr=0.005))
    loader = pa.ImageLoader(train, batch_size=64)
    pa.fit(model, loader, objective, epochs=5, optimizer=optimizer, out=f"{folder}/{name}", loggers=[])

reports = {}
for name in methods:
    model = pa.LeNet(10, in_channels=1, image_size=8)
    pa.load_weights(f"{folder}/{name}/last.safetensors", model)
    reports[name] = pa.evaluate(model, test, ["clean", "pgd20", "square200"], threat=threat)

first, second = reports.values()
for attack, ours in first.attacks.items():
    theirs = second[attack]
    pair = pa.Paired.of(ours.correct_mask, theirs.correct_mask)
    low, high = pair.interval()
    verdict = "a difference" if pair.p_value < 0.05 / len(first.attacks) else "no difference shown"
    print(
        f"{attack}: {ours.accuracy:.1%} and {theirs.accuracy:.1%}, {pair.difference:+.1%} [{low:+.1%}, {high:+.1%}], "
        f"p = {pair.p_value:.2g}: {verdict}"
    )
