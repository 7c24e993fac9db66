"""Modes that are found while training: when, of which network, under which numbers, and how they are logged."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import protoat as pa

KINDS = 3


def images(count: int = 24, seed: int = 0) -> pa.ImageData:
    """Two classes of three modes each: a bright pixel out of six, on noise."""
    generator = torch.Generator().manual_seed(seed)
    mode = torch.arange(count) % (2 * KINDS)
    pixels = torch.randint(20, (count, 1, 3, 3), generator=generator)
    pixels.flatten(1)[torch.arange(count), mode] += 200
    names = tuple(f"{label}/{kind}" for label in "ab" for kind in range(KINDS))
    return pa.ImageData(pixels.byte(), mode // KINDS, ("a", "b"), mode, names)


class Net(nn.Module):
    """The pixels as embedding."""

    def __init__(self, clusters: int = KINDS) -> None:
        super().__init__()
        self.head = pa.MultiPrototypeHead(9, 2, prototypes_per_class=clusters)

    def forward(self, x: torch.Tensor) -> pa.Output:
        return pa.Output(self.head(x.flatten(1)), x.flatten(1))


def built(epochs: int = 6, **options: Any) -> tuple[Net, pa.DiscoveredModes, Any]:
    torch.manual_seed(0)
    net, modes = Net(), pa.DiscoveredModes(images(), **{"clusters": KINDS, **options})
    objective = pa.Objective(pa.Standard(pa.Linf(0.1)), modes=modes)
    optimizer = torch.optim.SGD(pa.parameter_groups(net, objective, lr=0.5), lr=0.5)
    loader = pa.ImageLoader(images(), batch_size=6, origins=True)
    return net, modes, lambda: pa.fit(net, loader, objective, epochs=epochs, optimizer=optimizer, progress=False)


@pytest.mark.parametrize(
    ("options", "epochs", "expected"),
    [
        ({}, 6, [1, 3]),
        ({"warmup_epochs": 2, "recluster_at": 0.7}, 6, [2, 4]),
        ({"warmup_epochs": 4}, 6, [4]),
        ({"recluster_at": None}, 6, [1]),
        ({"warmup_epochs": 3}, 3, []),
    ],
)
def test_when(options: dict[str, Any], epochs: int, expected: list[int], caplog: pytest.LogCaptureFixture) -> None:
    _, modes, train = built(epochs, **options)
    with caplog.at_level(logging.INFO):
        metrics = train().metrics
    said = [record.message for record in caplog.records]
    assert sum("modes discovered: 3 in a (NMI 1.00), 3 in b (NMI 1.00)" in text for text in said) == len(expected)
    assert any("modes are never discovered" in text for text in said) == (not expected)
    first = expected[0] if expected else epochs + 1
    assert [line["mode"] > 0 for line in metrics] == [line["epoch"] > first for line in metrics]
    assert ["cluster_sizes" in line["objective"] for line in metrics] == [line["epoch"] >= first for line in metrics]
    assert bool((modes.of_image >= 0).all()) == bool(expected)


def test_finds_the_modes_and_logs_how_well() -> None:
    net, modes, train = built()
    facts = train().metrics[-1]["objective"]
    assert facts == {"cluster_sizes": [[4, 4, 4]] * 2, "mode_nmi": [pytest.approx(1)] * 2, "mode_purity": [1, 1]}
    assert torch.equal(modes.class_of[modes.of_image], images().labels)
    # Images of a mode are nearest to the prototype of their own cluster.
    scores = net.head.sub_logits(images().pixels().flatten(1)).flatten(1)
    assert torch.equal(scores.argmax(1), modes.class_of[modes.of_image] * KINDS + modes.place[modes.of_image])


def test_a_cluster_takes_the_prototype_nearest_to_it_and_keeps_it() -> None:
    net, modes, _ = built()
    order = torch.tensor([[2, 0, 1], [1, 2, 0]])  # prototype of each mode
    with torch.no_grad():
        net.head.prototypes.zero_()
        for label in range(2):
            for mode in range(KINDS):
                net.head.prototypes[label, order[label, mode], label * KINDS + mode] = 1
    modes.end_epoch(1, 6, net)
    data = images()
    expected = data.labels * KINDS + order[data.labels, data.modes % KINDS]
    assert torch.equal(modes.of_image, expected)
    with torch.no_grad():
        net.head.prototypes.copy_(net.head.prototypes.flip(1))
    modes.end_epoch(3, 6, net)  # found anew, under the same numbers
    assert torch.equal(modes.of_image, expected)


def test_of_another_network_before_training(caplog: pytest.LogCaptureFixture) -> None:
    class Other(nn.Module):
        def forward(self, x: torch.Tensor) -> pa.Output:
            return pa.Output(x.new_zeros(len(x), 7), x.flatten(1) - 0.01)

    _, modes, train = built()
    modes.discover(Other())
    found = modes.of_image.clone()
    metrics = train().metrics
    assert all(line["mode"] > 0 for line in metrics) and torch.equal(modes.of_image, found)


def test_of_a_network_in_double_precision() -> None:
    class Layered(Net):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(9, 9)

        def forward(self, x: torch.Tensor) -> pa.Output:
            embedding = self.layer(x.flatten(1))
            return pa.Output(self.head(embedding), embedding)

    _, modes, _ = built()
    net = Layered()
    modes.end_epoch(1, 6, net)
    expected = modes.of_image.clone()
    modes.end_epoch(3, 6, net.double())
    assert torch.equal(modes.of_image, expected)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: built(clusters=1), "clusters=1 must be at least 2"),
        (lambda: built(warmup_epochs=0), "warmup_epochs=0 must be at least 1"),
        (lambda: built(recluster_at=1.0), r"recluster_at=1 is outside \(0, 1\)"),
        (lambda: built(balanced="yes"), "balanced='yes' is a str"),
        (lambda: built(encoder=Path("runs/clean")), r"encoder='runs/clean' is read by protoat train.*modes.discover\("),
        (lambda: built()[1].discover(nn.Sequential(nn.Flatten(), nn.Linear(9, 2))), "the model returns logits only"),
        (lambda: built(clusters=4), r"the head has \[3, 3\] prototypes, and the classes have \[4, 4\] modes"),
    ],
)
def test_what_does_not_fit(build: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, []),
        ({"warmup_epochs": 3, "mode_stop": 0.5}, ["modes are discovered after their loss has ended"]),
        ({"warmup_epochs": 3, "mode_stop": 0.5, "mode_weight": 0.0}, []),
        ({"warmup_epochs": 4}, ["clusters are never found anew (recluster_at=0.5 is epoch 3, warmup_epochs=4)"]),
        ({"recluster_at": 0.95}, ["clusters are never found anew (recluster_at=0.95 is epoch 6, warmup_epochs=1)"]),
        ({"warmup_epochs": 4, "recluster_at": None}, []),
    ],
)
def test_what_never_happens_in_a_run_is_said(options: dict[str, Any], said: list[str]) -> None:
    modes = pa.DiscoveredModes(images(), clusters=KINDS, **options)
    assert [text.partition(";")[0].partition(" (warm")[0] for text in modes.unreached(6)] == said
    modes.fixed.fill_(True)
    assert modes.unreached(6) == []


def test_repr_shows_the_arguments() -> None:
    assert repr(built(balanced=True)[1]).startswith(
        "DiscoveredModes(..., clusters=3, silhouette=False, balanced=True, warmup_epochs=1, recluster_at=0.5, "
    )
