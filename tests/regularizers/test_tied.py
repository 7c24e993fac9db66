"""SoftTriple whose prototypes are those of known modes."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from protoat import DiscoveredModes, ImageData, KnownModes, Objective, with_embedding
from protoat.data import Origin
from protoat.methods import Standard
from protoat.regularizers import SoftTriple
from protoat.threats import Linf


def test_an_image_of_known_mode_is_compared_with_its_prototype_alone() -> None:
    z, y, places = torch.randn(5, 6), torch.tensor([0, 1, 1, 0, 1]), torch.tensor([1, 0, -1, -1, 1])
    metric = SoftTriple(2, 6, prototypes_per_class=2, projection=None, tied=True, tau=0.0)
    metric.at_places(places)
    expected = 0.0
    unit, w = F.normalize(z), F.normalize(metric.prototypes.detach(), dim=2)
    for row, label, place in zip(unit, y.tolist(), places.tolist(), strict=True):
        scores = []
        for c in range(2):
            cosine = w[c] @ row
            smooth = float((torch.softmax(cosine / 0.3, 0) * cosine).sum())
            scores.append(20 * (float(cosine[place]) if c == label and place >= 0 else smooth))
        scores[label] -= 20 * 0.01
        expected -= float(torch.log_softmax(torch.tensor(scores), 0)[label]) / 5
    assert metric(z, y).item() == pytest.approx(expected, rel=1e-5)
    metric.at_places(torch.tensor([1, 0, -1, -1, 2]))
    with pytest.raises(ValueError, match=r"places must be 5 numbers of active prototypes, or -1"):
        metric(z, y)
    assert SoftTriple(2, 6, tied=True).first_merge(10) is None
    with pytest.raises(ValueError, match="k-means does not know which mode a centre is of"):
        SoftTriple(2, 6, tied=True, prototype_init="kmeans")


@pytest.mark.parametrize("dml_input", ["adv", "clean", "both"])
def test_the_objective_tells_it_the_modes(dml_input: str) -> None:
    torch.manual_seed(0)
    mode = torch.arange(24) % 4
    images = torch.zeros(24, 1, 2, 2, dtype=torch.uint8)
    images.view(24, 4)[torch.arange(24), mode] = 255
    data = ImageData(images, mode // 2, ("a", "b"), mode, ("a0", "a1", "b0", "b1"))
    model = with_embedding(nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), layer="2")
    metric = SoftTriple(2, 6, prototypes_per_class=2, tied=True)
    objective = Objective(
        Standard(Linf(0.1)),
        metric,
        modes=KnownModes(data, mode_weight=0.0),
        dml_input=dml_input,  # type: ignore[arg-type]
    )
    by_hand, other = copy.deepcopy(metric), copy.deepcopy(metric)
    index, x = torch.randperm(24)[:10], images.float() / 255
    by_hand.at_places((mode % 2)[index])
    z, y = model(x[index]).embedding, data.labels[index]
    (terms,) = objective.losses(model, x[index], y, Origin(index))
    values = [each.of_both(z, z, y) if dml_input == "both" else each(z, y) for each in (by_hand, other)]
    assert terms.metric is not None
    torch.testing.assert_close(terms.metric, 0.5 * values[0])
    assert not torch.allclose(terms.metric, 0.5 * values[1])
    assert int(metric.used.sum()) == 10 * (1 + (dml_input == "both"))  # type: ignore[union-attr]
    torch.testing.assert_close(metric(z, y), other(z, y))  # other images, of no mode that is told
    with pytest.raises(ValueError, match="tied prototypes are those of modes"):
        Objective(Standard(Linf(0.1)), metric)


def test_too_few_prototypes_are_found_before_any_batch() -> None:
    mode = torch.tensor([0, 1, 2, 3, 4])
    images = torch.zeros(5, 1, 2, 2, dtype=torch.uint8)
    data = ImageData(images, torch.tensor([0, 0, 0, 1, 1]), ("a", "b"), mode, ("a0", "a1", "a2", "b0", "b1"))
    modes = {"known": KnownModes(data, mode_weight=0.0), "found": DiscoveredModes(data, clusters=3, mode_weight=0.0)}
    few = SoftTriple(2, 6, prototypes_per_class=[2, 5], tied=True)
    for name, needed in (("known", "[3, 2]"), ("found", "[3, 3]")):
        with pytest.raises(
            ValueError, match=re.escape(f"[2, 5] prototypes and {needed} modes; write prototypes_per_c")
        ):
            Objective(Standard(Linf(0.1)), few, modes=modes[name])
        Objective(Standard(Linf(0.1)), SoftTriple(2, 6, prototypes_per_class=3, tied=True), modes=modes[name])
        Objective(Standard(Linf(0.1)), SoftTriple(2, 6, prototypes_per_class=[2, 5]), modes=modes[name])
