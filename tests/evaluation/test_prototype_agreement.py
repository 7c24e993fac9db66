"""Agreement of prototypes with modes, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from protoat.functional.cosines import active_cosines, assign
from protoat.functional.partitions import agreement, crosstab


def test_agreement_is_what_the_formulas_give_by_hand() -> None:
    # modes x prototypes:  a 3 1 / b 0 4, of 8 images
    modes = torch.tensor([5, 5, 5, 5, 9, 9, 9, 9])
    places = torch.tensor([2, 2, 2, 7, 7, 7, 7, 7])
    joint = {("a", 0): 3 / 8, ("a", 1): 1 / 8, ("b", 1): 4 / 8}
    of_mode, of_place = {"a": 4 / 8, "b": 4 / 8}, {0: 3 / 8, 1: 5 / 8}
    mutual = sum(p * math.log(p / (of_mode[m] * of_place[k])) for (m, k), p in joint.items())
    entropies = [-sum(p * math.log(p) for p in parts.values()) for parts in (of_mode, of_place)]
    found = agreement(places, modes)
    assert found.nmi == pytest.approx(mutual / (sum(entropies) / 2))
    assert (found.purity, found.chance) == (7 / 8, 4 / 8)
    assert (found.images, found.prototypes, found.modes) == (8, 2, 2)


def test_the_same_partition_under_other_names_agrees_wholly() -> None:
    found = agreement(torch.tensor([3, 3, 0, 1]), torch.tensor([0, 0, 1, 2]))
    assert (found.nmi, found.purity) == (pytest.approx(1.0), 1.0)


@pytest.mark.parametrize(("places", "modes"), [([0, 0, 0], [0, 1, 2]), ([0, 1, 2], [4, 4, 4]), ([0, 0, 0], [4, 4, 4])])
def test_a_partition_with_one_part_says_nothing(places: list[int], modes: list[int]) -> None:
    assert agreement(torch.tensor(places), torch.tensor(modes)).nmi == 0


def test_agreement_of_no_images_is_refused() -> None:
    with pytest.raises(ValueError, match="needs images"):
        agreement(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))


def test_an_image_goes_to_the_nearest_active_prototype_of_its_own_class() -> None:
    generator = torch.Generator().manual_seed(3)
    prototypes = 5 * torch.randn(3, 4, 6, generator=generator)
    active = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1]]) > 0
    embedding = torch.randn(30, 6, generator=generator)
    labels = torch.arange(30) % 3
    found = assign(embedding, labels, prototypes, active)
    expected = []
    for z, y in zip(embedding, labels.tolist(), strict=True):
        angle = {k: float(torch.cosine_similarity(z, prototypes[y, k], dim=0)) for k in range(4) if active[y, k]}
        expected.append(max(angle, key=lambda k: angle[k]))
    assert found.tolist() == expected
    counts = crosstab(labels, found, (3, 4))
    assert counts.sum(1).tolist() == [10, 10, 10] and int(counts[~active].sum()) == 0
    assert counts[1].tolist() == [0, 10, 0, 0]
    assert bool(active_cosines(embedding, prototypes, active)[:, ~active].isneginf().all())
