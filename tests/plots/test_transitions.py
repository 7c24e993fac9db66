"""Heat maps count each image once, where it lies."""

from __future__ import annotations

from pathlib import Path

import torch

from protoat.plots.subject import Pictured
from protoat.plots.transitions import agreement_map, transition_map

from .reading import numbers, ticks


def test_transitions_between_prototypes_are_those_of_a_loop(ours: Path) -> None:
    seen = Pictured(ours, 50)
    prototypes = seen.metric.prototypes.detach().flatten(0, 1)
    expected = torch.zeros(6, 6, dtype=torch.int64)
    for z, z_adv in zip(seen.projected(seen.clean), seen.projected(seen.attacked("pgd10")), strict=True):
        before, after = (int(torch.cosine_similarity(prototypes, point[None]).argmax()) for point in (z, z_adv))
        expected[before, after] += 1
    plot = transition_map(ours, images=50)
    assert numbers(plot) == expected.tolist()
    assert plot.about[0].endswith(f"; {int(expected.diagonal().sum())} stay")
    assert ticks(plot, "y")[0] == "0-4, 0"


def test_without_prototypes_they_are_between_modes(plain: Path) -> None:
    seen = Pictured(plain, 50)
    attacked, expected = seen.attacked("pgd10"), torch.zeros(10, 10, dtype=torch.int64)
    for place, z in enumerate(attacked.embedding):
        cosine = torch.cosine_similarity(seen.clean.embedding, z[None])
        cosine[place] = -2
        expected[seen.data.modes[place], seen.data.modes[cosine.argmax()]] += 1
    assert numbers(transition_map(plain, images=50)) == expected.tolist()


def test_agreement_counts_modes_of_each_prototype(ours: Path) -> None:
    seen = Pictured(ours)
    plot = agreement_map(seen)
    table = numbers(plot)
    for place, mode in ((0, 0), (4, 7), (2, 9)):
        owner = place // 3
        chosen = (seen.data.labels == owner) & (seen.places == place % 3) & (seen.data.modes == mode)
        assert table[place][mode] == int(chosen.sum())
    assert sum(map(sum, table)) == len(seen.data)
    assert "NMI" in plot.about[1]
