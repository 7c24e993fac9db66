"""Clusters of one class, on clouds of points whose clusters are known."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from protoat.modes import clustering
from protoat.modes.clustering import clusters_of, in_places_of


def clouds(sizes: list[int], spread: float = 0.05, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Points about directions at right angles, of any length, and the cloud of each."""
    generator = torch.Generator().manual_seed(seed)
    cloud = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    cloud = cloud[torch.randperm(len(cloud), generator=generator)]
    points = torch.eye(8)[cloud] + spread * torch.randn(len(cloud), 8, generator=generator)
    return points * torch.rand(len(cloud), 1, generator=generator).add(0.1), cloud


@pytest.mark.parametrize(
    ("count", "options"),
    [(3, {}), (3, {"balanced": True}), (6, {"silhouette": True}), (6, {"silhouette": True, "balanced": True})],
)
def test_finds_clouds(count: int, options: dict[str, Any]) -> None:
    points, cloud = clouds([20, 20, 20])
    found = clusters_of(points, count, **options)
    assert adjusted_rand_score(cloud.numpy(), found.numpy()) == 1


def test_a_silhouette_of_clusters_that_are_hardly_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large class some images are looked at, among which a cluster of one image may be missing."""
    monkeypatch.setattr(clustering, "_SEEN", 20)
    points, cloud = clouds([200, 1])
    found = clusters_of(points, 3, silhouette=True)
    assert len(found.unique()) in (2, 3) and len(found) == len(cloud)


def test_balanced_clusters_are_of_equal_size() -> None:
    points, cloud = clouds([40, 12, 8], spread=0.3)
    sizes = torch.bincount(clusters_of(points, 3, balanced=True), minlength=3)
    assert sizes.max() - sizes.min() <= 2 and torch.bincount(cloud).max() == 40


@pytest.mark.parametrize("points", [torch.zeros(5, 3), torch.eye(3)[:1], torch.eye(3)])
@pytest.mark.parametrize("options", [{}, {"balanced": True}, {"silhouette": True}])
def test_fewer_points_than_clusters(points: torch.Tensor, options: dict[str, Any]) -> None:
    found = clusters_of(points, 4, **options)
    assert found.shape == (len(points),) and int(found.min()) >= 0 and int(found.max()) < 4
    if not options:
        assert len(found.unique()) == len(points.unique(dim=0))


def test_the_same_on_any_number_of_threads() -> None:
    points, _ = clouds([300, 300, 200], spread=0.6)
    found = []
    for threads in (1, 4):
        with threadpool_limits(threads):
            found.append(clusters_of(points, 5, seed=3))
    assert torch.equal(*found)


def test_numbers_are_kept_as_far_as_can_be() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        clusters, before = (torch.randint(low, 4, (30,), generator=generator) for low in (0, -1))
        best = max(sum((torch.tensor(order)[clusters] == before).tolist()) for order in permutations(range(4)))
        found = in_places_of(clusters, before, 4)
        assert int((found == before).sum()) == best
        assert len(set(zip(clusters.tolist(), found.tolist(), strict=True))) == len(clusters.unique())
