"""Modes that come with the data: their tables, their loss in an objective, and what does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import protoat as pa
from protoat.data.base import UNKNOWN_MODE

NAMES = ("cat/tabby", "cat/black", "dog/(unknown)", "dog/pug", "dog/husky", "dog/absent")
CLASSES = [0, 0, 1, 1, 1, 1]
# Rows of all modes but the last; the fourth image is of unknown mode.
ROWS = [3, 0, 4, 2, 1, 1, 0, 3]


def images(rows: list[int] = ROWS, names: tuple[str, ...] = NAMES) -> pa.ImageData:
    pixels = torch.randint(256, (len(rows), 1, 2, 2), generator=torch.Generator().manual_seed(1)).byte()
    labels = torch.tensor([CLASSES[row] for row in rows])
    return pa.ImageData(pixels, labels, ("cat", "dog"), torch.tensor(rows), names)


def network(prototypes_per_class: Any = 2, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    body = [nn.Flatten(), nn.Linear(4, 5), nn.ReLU()]
    net = nn.Sequential(*body, pa.MultiPrototypeHead(5, 2, prototypes_per_class=prototypes_per_class))
    return pa.with_embedding(net, layer="2", example=torch.zeros(1, 1, 2, 2))


def known(**options: Any) -> pa.KnownModes:
    return pa.KnownModes(images(), **options)


def test_tables() -> None:
    modes = known()
    assert modes.names == ("cat/tabby", "cat/black", "dog/pug", "dog/husky")  # those with images and a name
    assert modes.class_of.tolist() == [0, 0, 1, 1] and modes.place.tolist() == [0, 1, 0, 1]
    assert modes.of_image.tolist() == [2, 0, 3, -1, 1, 1, 0, 2]
    assert modes.per_class == modes.prototypes_per_class == [2, 2]
    assert known(mode_weight=0).prototypes_per_class is None
    assert modes.at(pa.Origin(torch.tensor([4, 3, 2])), torch.tensor([0, 1, 1])).tolist() == [1, -1, 3]


def test_places_where_modes_of_classes_are_mixed() -> None:
    data = pa.ImageData(
        torch.zeros(5, 1, 2, 2, dtype=torch.uint8),
        torch.tensor([1, 0, 1, 0, 1]),
        ("a", "b"),
        torch.arange(5),
        tuple("vwxyz"),
    )
    modes = pa.KnownModes(data)
    assert modes.class_of.tolist() == [1, 0, 1, 0, 1] and modes.place.tolist() == [0, 0, 1, 1, 2]
    assert modes.per_class == [2, 3] and modes.names_in_places == [["w", "y"], ["v", "x", "z"]]


def test_regrouped_digits() -> None:
    data = pa.regroup(pa.Digits().load("train"), 2)
    modes = pa.KnownModes(data)
    assert modes.per_class == [5, 5] and torch.equal(modes.of_image, data.modes)


def by_hand(net: nn.Module, base: Tensor, x_adv: Tensor, targets: list[int], smoothing: float) -> Tensor:
    """Mean over images of (1 - lambda) base + lambda x cross-entropy of the mode, or of base alone; by plain torch."""
    share = 0.3
    (linear,) = (layer for layer in net.modules() if isinstance(layer, nn.Linear))
    (head,) = (layer for layer in net.modules() if isinstance(layer, pa.MultiPrototypeHead))
    scores = linear(x_adv.flatten(1)).relu() @ head.prototypes.flatten(0, 1).T + head.bias.flatten()
    rows = [row for row, target in enumerate(targets) if target >= 0]
    found = F.cross_entropy(scores[rows], torch.tensor(targets)[rows], reduction="sum", label_smoothing=smoothing)
    kept = torch.tensor([1 - share * (target >= 0) for target in targets])
    return (kept * base).mean() + share * found / len(targets)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("method", [pa.PGDAT, pa.TRADES, pa.FreeAT])
def test_the_loss_of_an_objective(method: Any, smoothing: float) -> None:
    data, net, index = images(), network(), torch.tensor([5, 3, 0, 6, 7])
    x, y = data.pixels(index), data.labels[index]
    objective = pa.Objective(
        method(pa.Linf(0.1)), modes=pa.KnownModes(data, mode_weight=0.3), label_smoothing=smoothing
    )
    torch.manual_seed(1)
    terms = next(iter(objective.losses(net, x, y, pa.Origin(index))))
    torch.manual_seed(1)
    plain = method(pa.Linf(0.1))  # whose attack climbs the class loss all the same
    plain.label_smoothing = smoothing
    forwards = next(iter(plain.updates(net, x, y)))
    targets = [1, -1, 2, 0, 2]  # class * 2 + place
    expected = by_hand(net, plain.losses(forwards, y), forwards.x_adv, targets, smoothing)
    torch.testing.assert_close(terms.total, expected)
    assert terms.named().keys() == {"base", "mode", "total"}


def test_without_a_weight_nothing_changes_and_any_head_will_do() -> None:
    data = images()
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    x, y, origin = data.pixels(), data.labels, torch.arange(len(data))
    totals = []
    for modes in (None, pa.KnownModes(data, mode_weight=0)):
        objective = pa.Objective(pa.Standard(pa.Linf(0.1)), modes=modes)
        objective.prepare(net)
        (terms,) = objective.losses(net, x, y, origin)
        totals.append(terms.total)
    assert torch.equal(*totals)


def test_schedule() -> None:
    modes = known(mode_weight=0.8, mode_start=0.25, mode_ramp=0.5, mode_stop=0.9)
    assert modes.weight == 0.8  # of a loop that does not tell
    found = []
    for done in (0, 2, 2.5, 5, 7.5, 8.9, 9, 10):
        modes.at_epoch(done, 10)
        found.append(modes.weight)
    assert found == pytest.approx([0, 0, 0, 0.4, 0.8, 0.8, 0, 0])


def test_own_loop_and_fit_alike() -> None:
    """A loop through `epochs` ends with the weights of `fit`: both tell the schedule how far training is."""
    data = images()
    ends = []
    for fits in (True, False):
        net = network()
        objective = pa.Objective(pa.Standard(pa.Linf(0.1)), modes=pa.KnownModes(data, mode_ramp=0.5, mode_stop=0.8))
        optimizer = torch.optim.SGD(pa.parameter_groups(net, objective, lr=0.1), lr=0.1)
        loader = pa.ImageLoader(data, batch_size=3, origins=True)
        if fits:
            result = pa.fit(net, loader, objective, epochs=4, optimizer=optimizer, progress=False)
            assert [line["mode"] > 0 for line in result.metrics] == [True, True, True, True]
        else:
            for epoch in objective.epochs(4, net, optimizer):
                for x, y, origin in epoch.batches(loader):
                    for terms in objective.losses(net, x, y, origin):
                        optimizer.zero_grad()
                        terms.total.backward()
                        optimizer.step()
        ends.append(net.state_dict())
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"origin": None}, r"was not told which images a batch holds.*origins=True"),
        ({"origin": pa.Origin(torch.tensor([0, 8]))}, "holds image 8, and modes are known of 8"),
        ({"origin": pa.Origin(torch.tensor([0, 1, 2]))}, "2 images came with the numbers of 3"),
        ({"y": torch.tensor([1, 1])}, "image 1 has label 1, and its mode is of class 0"),
        ({"net": nn.Sequential(nn.Flatten(), nn.Linear(4, 2))}, "mode_weight=0.5 needs a head with a prototype"),
        ({"net": network(1)}, r"the head has \[1, 1\] prototypes, and the classes have \[2, 2\] modes"),
    ],
)
def test_what_does_not_fit_a_batch(change: dict[str, Any], said: str) -> None:
    data = images()
    given = {"net": network(), "y": data.labels[:2], "origin": pa.Origin(torch.tensor([0, 1])), **change}
    objective = pa.Objective(pa.Standard(pa.Linf(0.1)), modes=pa.KnownModes(data))
    with pytest.raises(ValueError, match=said) as caught:
        list(objective.losses(given["net"], data.pixels(slice(0, 2)), given["y"], given["origin"]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: known(mode_weight=1.5), r"mode_weight=1.5 is outside \[0, 1\]"),
        (lambda: known(mode_start=0.5, mode_stop=0.5), "mode_stop=0.5 is not after mode_start=0.5"),
        (lambda: pa.KnownModes(images([0, 3])), "no class of the images has two modes"),
        (lambda: pa.KnownModes([0, 1]), "data=.* is a list, expected a ImageData"),  # type: ignore[arg-type]
        (
            lambda: pa.Objective(pa.ACL(pa.Linf(0.1)), modes=known()),
            "ACL learns without labels; leave label_smoothing at 0, and modes and weighting out",
        ),
        (lambda: pa.Objective(pa.PGDAT(pa.Linf(0.1)), modes=pa.KnownModes), "expected a Modes"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_fit_at_all(build: Any, said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        build()


def test_a_resumed_run_must_have_the_same_modes(tmp_path: Any) -> None:
    data = images()
    other = images([3, 1, 4, 2, 0, 0, 1, 3])  # as many images of each class, other modes
    for which, told in ((data, None), (other, "modes of images")):
        net = network()
        objective = pa.Objective(pa.Standard(pa.Linf(0.1)), modes=pa.KnownModes(which))
        optimizer = torch.optim.SGD(pa.parameter_groups(net, objective, lr=0.1), lr=0.1)
        loader = pa.ImageLoader(which, batch_size=4, origins=True)
        options: Any = {"epochs": 1, "optimizer": optimizer, "out": tmp_path, "loggers": []}
        if told is None:
            pa.fit(net, loader, objective, **options)
        else:
            with pytest.raises(ValueError, match=told):
                pa.fit(net, loader, objective, **options)


def test_names_of_given_modes() -> None:
    x, y = torch.zeros(4, 1, 2, 2), torch.tensor([0, 0, 1, 1])
    from protoat.data.given import as_image_data

    data = as_image_data((x, y), modes=["a", None, "b", "c"])
    assert UNKNOWN_MODE in data.mode_names
    modes = pa.KnownModes(data)
    assert modes.of_image.tolist() == [0, -1, 1, 2] and modes.per_class == [1, 2]
