"""Weights of groups against plain Python written from the papers' equations, and what any weighting must hold."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from protoat import CFOL, GroupDRO, Objective, UserError, Weighting
from protoat.methods import Standard
from protoat.threats import Linf
from tests.methods import linear

KINDS: dict[str, Callable[[], Weighting]] = {
    "GroupDRO": lambda: GroupDRO(step=0.5),
    "GroupDRO, adjusted": lambda: GroupDRO(step=0.5, adjustment=2.0),
    "CFOL": lambda: CFOL(step=0.02, mixing=0.25),
    "CFOL, not mixed": lambda: CFOL(step=0.02, mixing=0.0),
}
each = pytest.mark.parametrize("name", KINDS)
SIZES = [40, 25, 0, 5, 30]  # the third group has no images


def batches(count: int = 6, size: int = 12) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Group, loss and error of each image of batches drawn from all images alike."""
    generator = torch.Generator().manual_seed(3)
    everyone = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))
    found = []
    for _ in range(count):
        groups = everyone[torch.randint(len(everyone), (size,), generator=generator)]
        losses = torch.rand(size, generator=generator) * (1 + groups)
        found.append((groups, losses, losses > 1))
    return found


def slow_probabilities(
    name: str, seen: list[tuple[list[int], list[float], list[bool]]], sizes: list[list[int]]
) -> list[float]:
    """q of each group after the batches, image by image; `sizes` are those known at each batch."""
    log_w = [0.0] * len(SIZES)
    for (groups, losses, wrong), now in zip(seen, sizes, strict=True):
        everyone = sum(now)
        for group, loss, error in zip(groups, losses, wrong, strict=True):
            share = now[group] / everyone
            if name.startswith("GroupDRO"):
                log_w[group] += 0.5 * loss / share / len(groups)
            else:
                log_w[group] += 0.02 * error / share
        if name == "GroupDRO, adjusted":
            for group, count in enumerate(now):
                log_w[group] += 0.5 * 2.0 / math.sqrt(count) if count else 0.0
    there = [count > 0 for count in sizes[-1]]
    top = sum(math.exp(w) for w, present in zip(log_w, there, strict=True) if present)
    gamma = 0.25 if name == "CFOL" else 0.0
    return [
        (1 - gamma) * math.exp(w) / top + gamma / sum(there) if present else 0.0
        for w, present in zip(log_w, there, strict=True)
    ]


@each
@pytest.mark.parametrize("counted", [True, False], ids=["counted", "counting"])
def test_probabilities_follow_the_equations(name: str, counted: bool) -> None:
    weighting, seen, sizes = KINDS[name](), [], []
    if counted:
        weighting.count(torch.repeat_interleave(torch.arange(5), torch.tensor(SIZES)), 5)
    total = [0] * 5
    for groups, losses, wrong in batches(6, 200 if not counted else 12):
        weights = weighting.weights(groups, losses, wrong, 5)
        total = [before + int((groups == g).sum()) for g, before in enumerate(total)]
        seen.append((groups.tolist(), losses.tolist(), wrong.tolist()))
        sizes.append(SIZES if counted else total)
        expected = slow_probabilities(name, seen, sizes)
        assert weighting.facts()["group_weights"] == pytest.approx(expected, rel=1e-4, abs=1e-7)
        share = [count / sum(sizes[-1]) for count in sizes[-1]]
        by_hand = [expected[g] / share[g] for g in groups.tolist()]
        assert weights.tolist() == pytest.approx(by_hand, rel=1e-4)


@each
def test_the_weighted_loss_is_that_of_the_groups_means(name: str) -> None:
    """Over all images; so the mean weight is 1."""
    weighting = KINDS[name]()
    groups = torch.repeat_interleave(torch.arange(5), torch.tensor(SIZES))
    weighting.count(groups, 5)
    for drawn, losses, wrong in batches():
        weighting.weights(drawn, losses, wrong, 5)
    losses = torch.rand(len(groups), generator=torch.Generator().manual_seed(1))
    q = weighting.facts()["group_weights"]
    expected = sum(q[g] * float(losses[groups == g].mean()) for g, size in enumerate(SIZES) if size)
    weights = weighting.present(groups)
    assert float((weights * losses).mean()) == pytest.approx(expected, rel=1e-5)
    assert float(weights.mean()) == pytest.approx(1.0, rel=1e-5)


@each
def test_the_worst_group_gains_and_no_order_of_groups_counts(name: str) -> None:
    groups, order = torch.arange(40) % 4, torch.tensor([2, 0, 3, 1])
    losses = torch.tensor([0.1, 0.2, 0.3, 0.9])[groups]
    one, other = KINDS[name](), KINDS[name]()
    for _ in range(5):
        one.weights(groups, losses, losses > 0.5, 4)
        other.weights(order[groups], losses, losses > 0.5, 4)
    q, turned = one.facts()["group_weights"], other.facts()["group_weights"]
    assert max(q) == q[3] > 0.26 and sum(q) == pytest.approx(1)
    assert [turned[g] for g in order.tolist()] == pytest.approx(q)


@each
def test_state_goes_on_and_a_new_group_begins_at_the_mean(name: str) -> None:
    whole, first, second = KINDS[name](), KINDS[name](), KINDS[name]()
    found = batches()
    for batch in found:
        whole.weights(*batch, 5)
    for batch in found[:3]:
        first.weights(*batch, 5)
    second.load_state_dict(first.state_dict())
    for batch in found[3:]:
        second.weights(*batch, 5)
    assert second.facts() == whole.facts()
    assert torch.equal(second.present(found[0][0]), whole.present(found[0][0]))
    before, mixing = whole.log_weights, whole.mixing
    assert before is not None
    whole.count(torch.tensor([1, 1, 2, 4]), 6)  # the second and the last are kept, the third is new, others are gone
    kept = [math.exp(before[1]), 1.0, math.exp(before[4])]
    q = [(1 - mixing) * w / sum(kept) + mixing / 3 for w in kept]
    assert whole.facts()["group_weights"] == pytest.approx([0, q[0], q[1], 0, q[2]], rel=1e-4)
    assert whole.present(torch.tensor([1, 2])).tolist() == pytest.approx([2 * q[0], 4 * q[1]], rel=1e-4)


@each
def test_a_loss_that_overflows_leaves_no_trace(name: str) -> None:
    weighting = KINDS[name]()
    groups, wrong = torch.tensor([0, 1]), torch.tensor([True, False])
    weighting.weights(groups, torch.tensor([1.0, float("inf")]), wrong, 2)
    assert all(map(math.isfinite, weighting.facts()["group_weights"]))


def test_a_group_that_was_not_counted_is_refused() -> None:
    weighting = GroupDRO()
    weighting.count(torch.tensor([0, 0, 1]), 3)
    with pytest.raises(UserError, match="none when groups were counted"):
        weighting.weights(torch.tensor([2]), torch.ones(1), torch.tensor([True]), 3)


def test_a_short_run_says_that_weights_hardly_move() -> None:
    weighting = CFOL()
    weighting.count(torch.arange(10_000) % 2, 2)
    (said,) = weighting.unreached(10)
    assert "write a step of about 0.0002" in said
    assert not weighting.unreached(30) and not GroupDRO().unreached(1)


@pytest.mark.parametrize(
    "build",
    [lambda: GroupDRO(step=0), lambda: GroupDRO(adjustment=-1), lambda: CFOL(step=-1), lambda: CFOL(mixing=1.1)],
)
def test_settings_out_of_range_are_refused(build: Callable[[], Weighting]) -> None:
    with pytest.raises(UserError, match=r"step|adjustment|mixing"):
        build()


def test_training_follows_the_papers_algorithm_step_by_step() -> None:
    """GroupDRO on a linear classifier in float64 against plain Python, with classes of unequal size."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(2, 4, generator=generator, dtype=torch.float64).tolist()
    images, labels = torch.rand(8, 4, generator=generator, dtype=torch.float64).tolist(), [0, 0, 0, 0, 0, 0, 1, 1]
    model = linear.network(w)
    objective = Objective(Standard(Linf(0.1)), weighting=GroupDRO(step=0.7))
    objective.count_classes(torch.tensor(labels), 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    log_q = [0.0, 0.0]
    for rows in ([0, 1, 6, 7], [2, 3, 4, 6], [5, 7, 0, 1]):
        x, y = [images[row] for row in rows], [labels[row] for row in rows]
        for terms in objective.losses(model, linear.as_images(x), torch.tensor(y)):
            optimizer.zero_grad()
            terms.total.backward()
            optimizer.step()
        errors = [linear.error(w, image, label) for image, label in zip(x, y, strict=True)]
        losses = [-math.log(1 + error[label]) for error, label in zip(errors, y, strict=True)]
        for label, loss in zip(y, losses, strict=True):
            log_q[label] += 0.7 * loss / len(x) / (0.75 if label == 0 else 0.25)
        q = [math.exp(v) / (math.exp(log_q[0]) + math.exp(log_q[1])) for v in log_q]
        weights = [q[label] / (0.75 if label == 0 else 0.25) for label in y]
        assert terms.base.item() == pytest.approx(sum(a * b for a, b in zip(weights, losses, strict=True)) / 4)
        gradient = [
            [sum(k * e[c] * image[d] for k, e, image in zip(weights, errors, x, strict=True)) / 4 for d in range(4)]
            for c in range(2)
        ]
        w = linear.sgd(w, gradient, 0.5)
    torch.testing.assert_close(model[1].weight.detach(), torch.tensor(w, dtype=torch.float64))
