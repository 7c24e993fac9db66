"""Add an attack
=============

An attack of your own, measured beside PGD::

    python examples/new_attack.py

A subclass of `Attack` writes `run` only. The base class freezes the model, keeps the images within the radius and
[0, 1], judges success and puts everything back, so the attack works wherever those of protoat do: called on tensors, in
`evaluate`, as what `AdversarialTraining` trains on, and on the command line, `--attacks new_attack.CosinePGD`.
"""

import math

import torch
from torch import Tensor, nn

import protoat as pa


class CosinePGD(pa.Attack):
    """PGD on the margin whose steps shrink from the radius to 0 along a cosine, for any norm, targeted or not."""

    def __init__(self, threat: pa.ThreatModel, *, steps: int = 20, seed: int = 0) -> None:
        super().__init__(threat, seed=seed)
        self.steps = steps

    def run(self, problem: pa.Problem) -> Tensor:
        norm = self.threat.geometry
        x_adv = norm.random_start(problem.x, problem.eps, problem.generator)
        for step in range(self.steps):
            x_adv = x_adv.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(problem.lead(problem.model(x_adv)).sum(), x_adv)
            size = problem.eps * (1 + math.cos(math.pi * step / self.steps)) / 2
            x_adv = norm.project(x_adv.detach() + norm.step(gradient, size, x_adv.detach()), problem.x, problem.eps)
        return x_adv


if __name__ == "__main__":
    torch.manual_seed(0)
    threat = pa.Linf(0.1)
    train, test = pa.Digits().load("train"), pa.Digits().load("test")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    objective = pa.Objective(pa.AdversarialTraining(CosinePGD(threat, steps=5)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    pa.fit(model, pa.ImageLoader(train, batch_size=128), objective, epochs=5, optimizer=optimizer)

    report = pa.evaluate(model, test, ["clean", "pgd20", CosinePGD(threat)], threat=threat)
    print(report)
