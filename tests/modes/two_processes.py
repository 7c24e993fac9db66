"""What modes hold in two processes that train together; run by `contracts/two_processes.py`."""

from __future__ import annotations

import copy

import torch
import torch.distributed as dist
from torch import nn

import protoat as pa
from tests.two_processes import equal_on_both


def images() -> pa.ImageData:
    generator = torch.Generator().manual_seed(0)
    modes = torch.randint(4, (32,), generator=generator)
    pixels = torch.randint(256, (32, 1, 2, 2), generator=generator).byte()
    return pa.ImageData(pixels, modes // 2, ("a", "b"), modes, ("a/x", "a/(unknown)", "b/x", "b/y"))


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), pa.MultiPrototypeHead(5, 2, prototypes_per_class=2))
    return pa.with_embedding(net, layer="2", example=torch.zeros(1, 1, 2, 2))


def in_one_process(net: nn.Module, objective: pa.Objective, epochs: int) -> None:
    """The whole batches, in a loop of its own."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loader = pa.ImageLoader(images(), batch_size=8, origins=True)
    for epoch in objective.epochs(epochs, net, optimizer):
        for x, y, origin in epoch.batches(loader):
            for terms in objective.losses(net, x, y, origin):
                optimizer.zero_grad()
                terms.total.backward()
                optimizer.step()


def check() -> None:
    """Two processes, each with half of every batch, end as one with whole batches does."""
    made = [pa.KnownModes(images(), mode_weight=0.4, mode_ramp=0.5), pa.DiscoveredModes(images(), clusters=2)]
    for modes in made:
        one, two = network(), network()
        other = copy.deepcopy(modes)
        in_one_process(one, pa.Objective(pa.Standard(pa.Linf(0.1)), modes=modes), 4)
        loader = pa.ImageLoader(images(), batch_size=4, origins=True, rank=dist.get_rank(), world_size=2)
        optimizer = torch.optim.SGD(two.parameters(), lr=0.1)
        objective = pa.Objective(pa.Standard(pa.Linf(0.1)), modes=other)
        pa.fit(two, loader, objective, epochs=4, optimizer=optimizer, progress=False)
        name = type(modes).__name__
        equal_on_both(two.state_dict() | objective.state_dict(), name)
        torch.testing.assert_close(two.state_dict(), one.state_dict(), msg=lambda m, name=name: f"{name}: {m}")
    found_before()


def found_before() -> None:
    """Clusters found before the processes met, which may round differently: those of the first count in all."""
    modes = pa.DiscoveredModes(images(), clusters=2, mode_weight=0.0)
    modes.discover(network())
    modes.of_image ^= dist.get_rank()  # the two clusters of a class change places
    objective = pa.Objective(pa.Standard(pa.Linf(0.1)), modes=modes, weighting=pa.GroupDRO())
    net = network()
    loader = pa.ImageLoader(images(), batch_size=4, origins=True, rank=dist.get_rank(), world_size=2)
    pa.fit(net, loader, objective, epochs=1, optimizer=torch.optim.SGD(net.parameters(), lr=0.1), progress=False)
    equal_on_both(net.state_dict() | objective.state_dict(), "modes found before")
