"""Train in a loop of your own
===========================

Multi-prototype adversarial training: PGD with SoftTriple, any `DataLoader`, any optimizer::

    python examples/training_loop.py

The ten digits are two classes, 0-4 and 5-9, of five modes each. `objective.epochs` ends each epoch, where prototypes
merge; `epoch.batches` says how far training is, by which radii grow where a ramp is asked for.
"""

import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import protoat as pa

EPOCHS = 10
train, test = (pa.regroup(pa.Digits().load(split), 2) for split in ("train", "test"))
loader = DataLoader(TensorDataset(train.images / 255, train.labels), batch_size=64, shuffle=True)

torch.manual_seed(0)
network = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 2))
model = pa.with_embedding(network, layer="2", example=torch.zeros(1, 1, 8, 8))  # logits and the output of layer 2
method = pa.PGDAT(pa.Linf(0.1), steps=7, ramp_epochs=2)
objective = pa.Objective(method, pa.SoftTriple(2, 128, prototypes_per_class=10))
optimizer = torch.optim.SGD(pa.parameter_groups(model, objective, lr=0.1), momentum=0.9)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)

for epoch in objective.epochs(EPOCHS, model, optimizer):
    model.train()
    for x, y in epoch.batches(loader):
        for terms in objective.losses(model, x, y):  # one for each step: methods may take several on a batch
            optimizer.zero_grad()
            terms.total.backward()
            optimizer.step()
    schedule.step()
    print(epoch.number, {name: round(term.item(), 3) for name, term in terms.named().items()})

report = pa.evaluate(model, test, ["clean", "pgd20"], threat=pa.Linf(0.1))
print(report)
file = Path(tempfile.mkdtemp(), "model-and-prototypes.pt")
torch.save({"model": model.state_dict(), "objective": objective.state_dict()}, file)
print(f"{file} holds all that another program needs to go on")
