"""How prototypes are used: counted, dropped, warned of, and started at the centres of their class."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from protoat.functional.kmeans import class_centres
from protoat.functional.usage import in_use, shares, unused
from protoat.regularizers import SoftTriple


def modes(images: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings near one of six directions, three for each of two classes; labels; directions."""
    mode = torch.arange(images) % 6
    return 3 * torch.eye(6)[mode] + 0.02 * torch.randn(images, 6), mode // 3, mode


def at_directions(places: list[list[int]], **options: Any) -> SoftTriple:
    metric = SoftTriple(2, 6, prototypes_per_class=len(places[0]), projection=None, **options)
    with torch.no_grad():
        metric.prototypes.copy_(torch.eye(6)[torch.tensor(places)])
    return metric


@pytest.mark.parametrize("below", [0.0, 0.01, 0.3])
def test_unused_against_a_loop(below: float) -> None:
    counts, active = torch.randint(0, 40, (7, 5)) * (torch.rand(7, 5) < 0.5), torch.rand(7, 5) < 0.7
    active[:, 0], counts[3] = True, 0
    counts *= active
    share = shares(counts)
    gone = unused(active, share, below)
    for c, own in enumerate(counts.tolist()):
        largest = own.index(max(own))
        expected = [
            bool(active[c, k]) and k != largest and sum(own) > 0 and own[k] / sum(own) < below for k in range(5)
        ]
        assert gone[c].tolist() == expected
    assert torch.equal(in_use(active, share, below), (active & ~gone).sum(1))
    assert bool((active & ~gone).any(1).all())


def test_usage_is_the_share_of_images_nearest_to_each_in_the_epoch() -> None:
    z, y, _ = modes()
    metric = at_directions([[0, 1, 5], [3, 4, 0]], drop_below=None, merge_threshold=None)
    for _ in range(2):
        metric(z, y)
        metric.eval()(z, y)
        metric.train()
        nearest = (F.normalize(z) @ torch.eye(6)[torch.tensor([[0, 1, 5], [3, 4, 0]])].mT).transpose(0, 1)
        own = nearest[torch.arange(60), y].argmax(1)
        expected = [(own[y == c].bincount(minlength=3) / 30).tolist() for c in (0, 1)]
        facts = metric.end_epoch(1, 10)
        assert facts["usage"] == [pytest.approx(each, abs=1e-4) for each in expected]
        assert facts["in_use"] == [sum(share >= 0.01 for share in each) for each in expected]
    assert metric.end_epoch(2, 10)["in_use"] == facts["prototype_counts"] == [3, 3]  # nothing was seen


def test_those_that_nobody_uses_are_dropped_on_schedule_and_before_merges() -> None:
    z, y, mode = modes()
    z, y = z[mode != 2], y[mode != 2]
    metric = at_directions([[0, 1, 5], [3, 4, 5]], drop_below=0.01, merge_start=0.5)
    optimizer = torch.optim.SGD(metric.parameters(), lr=1e-4, momentum=0.9)
    for epoch, dropped in ((4, []), (5, [[0, 2]])):
        optimizer.zero_grad()
        metric(z, y).backward()
        optimizer.step()
        assert metric.end_epoch(epoch, 10, optimizer)["dropped"] == dropped
    assert metric.active.tolist() == [[True, True, False], [True, True, True]]
    momentum = optimizer.state[metric.prototypes]["momentum_buffer"]
    assert not momentum[0, 2].any()
    assert momentum[1].any(1).all()


def test_what_merged_is_in_use_by_the_images_of_both() -> None:
    z, y, mode = modes()
    metric = at_directions([[0, 1, 2], [3, 4, 5]], drop_below=None, merge_start=0.0)
    with torch.no_grad():
        metric.prototypes[0, 0] = metric.prototypes[0, 2] + 0.05 * torch.eye(6)[5]  # no image is nearest to this one
    metric(z[mode != 0], y[mode != 0])
    facts = metric.end_epoch(1, 10)
    assert facts["usage"][0] == [0.0, 0.5, 0.5]
    assert facts["merged"] == [[0, 0, 2]]
    assert facts["in_use"] == facts["prototype_counts"] == [2, 3]


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"projection": None, "gamma": 0.1}, ["projection='batchnorm' and gamma=0.3"]),
        ({"projection": None}, ["projection='batchnorm'"]),
        ({"projection": "batchnorm"}, ["a higher gamma, tau=0, or a lower prototype_lr_factor"]),
        ({"projection": "batchnorm", "tied": True}, []),
    ],
)
def test_one_that_takes_a_class_is_warned_of_once(
    options: dict[str, Any], advice: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    metric = SoftTriple(2, 6, prototypes_per_class=[1, 3], drop_below=None, merge_threshold=None, **options)
    with torch.no_grad():
        metric.prototypes[1, 1:] = -metric.prototypes[1, :1]
    z, y = metric.prototypes[1, :1].detach().expand(20, 6) + 0.01 * torch.randn(20, 6), torch.arange(20) % 2
    metric.project.eval()
    for epoch in (1, 2):
        metric(z, y)
        metric.end_epoch(epoch, 10)
    assert [record.getMessage() for record in caplog.records if "one prototype" in record.getMessage()] == [
        f"one prototype of class 1 takes 100 % of its images; write {each}" for each in advice
    ]


def test_centres_of_separate_clusters_are_their_means() -> None:
    z, y, mode = modes()
    found = class_centres(z, y, [3, 5])
    for c, centres in enumerate(found):
        means = F.normalize(torch.stack([F.normalize(z[mode == m]).mean(0) for m in range(3 * c, 3 * c + 3)]))
        near = (centres @ means.T).amax(0)
        assert bool((near > 0.999).all())
    assert [len(centres) for centres in found] == [3, 5]
    assert torch.equal(class_centres(z, y, [3, 5])[1], found[1])


def test_embeddings_without_a_direction_make_no_centre() -> None:
    z = torch.cat([torch.zeros(5, 3), torch.eye(3)[[0, 1]]])
    (centres, none) = class_centres(torch.cat([z, torch.zeros(2, 3)]), torch.tensor([0] * 7 + [1] * 2), [3, 3])
    assert sorted(centres.tolist(), reverse=True) == torch.eye(3)[:2].tolist()
    assert not len(none)


def test_prototypes_start_at_centres_after_the_warm_up_and_go_on_from_a_checkpoint() -> None:
    z, y, mode = modes()

    def build() -> tuple[SoftTriple, torch.optim.Optimizer]:
        metric = SoftTriple(2, 6, prototypes_per_class=3, prototype_init="kmeans", warmup_epochs=2, merge_threshold=0)
        return metric, torch.optim.SGD(metric.parameters(), lr=0.1, momentum=0.9)

    def epoch(metric: SoftTriple, optimizer: torch.optim.Optimizer, number: int, half: int = 0) -> None:
        for rows in (slice(0, 30), slice(30, 60))[half:]:
            optimizer.zero_grad()
            value = metric(z[rows].requires_grad_(), y[rows])
            assert (value.item() == 0) == (number <= 2)
            value.backward()
            optimizer.step()
        metric.end_epoch(number, 5, optimizer)

    torch.manual_seed(0)
    metric, optimizer = build()
    first = metric.prototypes.detach().clone()
    epoch(metric, optimizer, 1)
    assert torch.equal(metric.prototypes, first)
    metric(z[:30], y[:30])
    resumed, again = build()
    resumed.load_state_dict(copy.deepcopy(metric.state_dict()))
    metric(z[30:], y[30:])
    metric.end_epoch(2, 5, optimizer)
    epoch(resumed, again, 2, half=1)
    assert torch.equal(resumed.prototypes, metric.prototypes)
    cosine = F.normalize(metric.projected(z)) @ metric.prototypes.detach().flatten(0, 1).T
    assert len({(int(m), int(p)) for m, p in zip(mode, cosine.argmax(1), strict=True)}) == 6  # each mode has its own
    epoch(metric, optimizer, 3)
    assert not torch.equal(resumed.prototypes, metric.prototypes)
    assert metric.kmeans is not None
    assert metric.kmeans.seen is None
    assert "never start" in build()[0].unreached(2)[0]


def test_a_state_of_before_there_was_usage_is_loaded() -> None:
    z, y, _ = modes()
    metric = SoftTriple(2, 6)
    metric(z, y)
    state = {key: value for key, value in metric.state_dict().items() if key != "used"}
    metric.load_state_dict(state)
    assert metric.used is None
