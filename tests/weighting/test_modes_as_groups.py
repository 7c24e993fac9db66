"""Weights of images by their modes, and by their class where the mode is unknown."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import protoat as pa
from protoat.types import LossTerms
from tests.modes.test_known import ROWS, images, known, network

INDEX = torch.tensor([5, 3, 0, 6, 7])
# Modes 0 to 3, then the images of unknown mode of class 0 and 1.
GROUPS = [1, 5, 2, 0, 2]
SIZES = [2, 2, 2, 1, 0, 1]


def losses_of(objective: pa.Objective) -> tuple[LossTerms, Tensor]:
    """The terms of a batch, and the weights of its images."""
    data, net = images(), network()
    objective.prepare(net)
    weighting = objective.weighting
    assert weighting is not None
    (terms,) = objective.losses(net, data.pixels(INDEX), data.labels[INDEX], pa.Origin(INDEX))
    return terms, weighting.present(torch.tensor(GROUPS))


@pytest.mark.parametrize("mode_weight", [0.0, 0.3])
def test_both_losses_are_weighed(mode_weight: float) -> None:
    """Against each image alone: its own loss without weights, times the weight of its mode."""
    weighting = pa.GroupDRO(step=0.8)
    method = pa.Standard(pa.Linf(0.1))
    terms, weights = losses_of(pa.Objective(method, modes=known(mode_weight=mode_weight), weighting=weighting))
    data, net = images(), network()
    alone = pa.Objective(method, modes=known(mode_weight=mode_weight))
    total = torch.zeros(())
    log_w = [0.0] * 6
    for place, index in enumerate(INDEX.split(1)):
        (one,) = alone.losses(net, data.pixels(index), data.labels[index], pa.Origin(index))
        total = total + weights[place] * one.total / len(INDEX)
        group = GROUPS[place]
        log_w[group] += 0.8 * one.total.item() / len(INDEX) / (SIZES[group] / sum(SIZES))
    torch.testing.assert_close(terms.total, total)
    present = torch.tensor([w for w, size in zip(log_w, SIZES, strict=True) if size]).softmax(0)
    q = weighting.facts()["group_weights"]
    assert q[4] == 0.0 and [q[g] for g in (0, 1, 2, 3, 5)] == pytest.approx(present.tolist(), rel=1e-5)


def test_groups_that_change_are_counted_at_the_end_of_an_epoch() -> None:
    modes, net, data = known(mode_weight=0), network(), images()
    objective = pa.Objective(pa.Standard(pa.Linf(0.1)), modes=modes, weighting=pa.GroupDRO(step=0.5))
    assert objective.weighting is not None
    batches = [(data.pixels(INDEX), data.labels[INDEX], pa.Origin(INDEX))]
    for epoch in objective.epochs(2, net):
        for batch in epoch.batches(batches):
            for _ in objective.losses(net, *batch):
                pass
        if epoch.number == 1:
            assert objective.weighting.sizes is not None and objective.weighting.sizes.tolist() == SIZES
            modes.of_image = torch.where(modes.of_image == 3, 2, modes.of_image)  # one mode is joined with another
            found = epoch.end().facts["group_weights"]
            assert found[3] == 0.0 and sum(found) == pytest.approx(1)
            assert objective.weighting.sizes.tolist() == [2, 2, 3, 0, 0, 1]
    assert len(ROWS) == sum(SIZES)
