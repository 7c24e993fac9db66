"""Modes that are found while training: clusters of the embeddings of each class."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from protoat.arguments import check_flag, check_number, check_whole
from protoat.attacks.mode import attacking
from protoat.data import ImageData
from protoat.data.base import UNKNOWN_MODE
from protoat.data.given import as_image_data
from protoat.errors import UserError
from protoat.functional.distributed import from_first_process
from protoat.functional.forward import device_of, output_of
from protoat.functional.partitions import agreement
from protoat.functional.precision import float_types
from protoat.models.head import multi_prototype_head
from protoat.modes.base import Modes
from protoat.modes.clustering import clusters_of, in_places_of
from protoat.spelling import argument, setting

logger = logging.getLogger(__name__)

_BATCH = 256


class DiscoveredModes(Modes):
    """Clusters of the embeddings of each class, by k-means on their directions, each with a prototype of its own.

    The embeddings are those of the clean training images under the model in training, at the end of epoch
    `warmup_epochs`, and once more at `recluster_at`. Until then images have the class loss alone. A cluster takes the
    prototype that most of its images have: that of their cluster before, or at first the nearest one. Clusters of a
    network trained before, on labels or without, are found before the first epoch and stay: `encoder`, or in a program
    ``modes.discover(network)``.

    Take more clusters than you expect modes: a mode in two clusters costs little, two modes in one are not told apart.

    Args:
        data: the images trained on. Their own modes only serve to log how well the clusters agree with them.
        clusters: of each class, so prototypes too.
        silhouette: take in each class the number from 2 to `clusters` with the highest mean silhouette.
        balanced: give all clusters of a class about equally many images, by Sinkhorn's iteration.
        warmup_epochs: epochs before the first clustering; without effect where clusters are there before.
        recluster_at: share of the run in (0, 1) after which clusters are found anew; None keeps the first.
        encoder: a run, trained or pre-trained, whose network gives the embeddings: its folder, or for `protoat train`,
            which reads it, also zoo:NAME or hf://user/name.
        encoder_sha256: of its weights, filled in when a run begins; others are refused.
        mode_weight, mode_start, mode_ramp, mode_stop: see `Modes`.

    Raises:
        TypeError, ValueError: see `Modes`; or a number out of range; in use, a model without embeddings.

    Source: over-clustering by k-means within classes, Sohoni et al., NeurIPS 2020 (GEORGE), of a network trained before
    and without adversaries; that clusters are found anew while training, Caron et al., ECCV 2018 (DeepCluster).

    >>> data = ImageData(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 1, 1]), ("a", "b"))
    >>> modes = DiscoveredModes(data, clusters=3)
    >>> modes.per_class, modes.of_image
    ([3, 3], tensor([-1, -1, -1, -1]))
    """

    fixed: Tensor

    def __init__(
        self,
        data: ImageData,
        *,
        clusters: int = 10,
        silhouette: bool = False,
        balanced: bool = False,
        warmup_epochs: int = 1,
        recluster_at: float | None = 0.5,
        encoder: Path | None = None,
        encoder_sha256: str | None = None,
        mode_weight: float = 0.5,
        mode_start: float = 0.0,
        mode_ramp: float = 0.0,
        mode_stop: float = 1.0,
    ) -> None:
        super().__init__(data, mode_weight=mode_weight, mode_start=mode_start, mode_ramp=mode_ramp, mode_stop=mode_stop)
        check_whole(2, "write 2 or more", clusters=clusters)
        check_whole(warmup_epochs=warmup_epochs)
        check_flag(silhouette=silhouette, balanced=balanced)
        if recluster_at is not None:
            check_number("(0, 1)", "None keeps the first clusters", recluster_at=recluster_at)
        self.clusters = clusters
        self.silhouette = silhouette
        self.balanced = balanced
        self.warmup_epochs = warmup_epochs
        self.recluster_at = recluster_at
        self.encoder = None if encoder is None else Path(encoder)
        self.encoder_sha256 = encoder_sha256
        self._data = data.to("cpu")
        class_of = torch.arange(data.num_classes).repeat_interleave(clusters)
        names = [f"{name}/cluster {place}" for name in data.class_names for place in range(clusters)]
        self.tell(data.labels, torch.full((len(data),), -1), class_of, names)
        self.register_buffer("fixed", torch.zeros((), dtype=torch.bool))

    def prepare(self, model: nn.Module) -> None:
        super().prepare(model)
        if self.encoder is not None and not bool(self.fixed):
            raise UserError(
                f"{setting(encoder=str(self.encoder))} is read by protoat train; in a program write "
                "modes.discover(protoat.Run(folder).model) before training"
            )

    def unreached(self, epochs: int) -> list[str]:
        first, again = self.warmup_epochs, self._again(epochs)
        if bool(self.fixed):
            return []
        if first >= epochs:
            return [f"modes are never discovered ({setting(warmup_epochs=first)}); write at most {epochs - 1}"]
        found = []
        if self.mode_weight and first / epochs >= self.mode_stop:
            found.append(
                f"modes are discovered after their loss has ended ({setting(warmup_epochs=first)}, "
                f"{setting(mode_stop=self.mode_stop)}); write fewer epochs, or a later {argument('mode_stop')}"
            )
        if again is not None and (again < first or again >= epochs):
            found.append(
                f"clusters are never found anew ({setting(recluster_at=self.recluster_at)} is epoch {again}, "
                f"{setting(warmup_epochs=first)}); write a share after epoch {first} and before the last, or none"
            )
        return found

    def end_epoch(self, epoch: int, epochs: int, model: nn.Module) -> dict[str, Any]:
        due = epoch == self.warmup_epochs or (epoch == self._again(epochs) and epoch > self.warmup_epochs)
        if due and epoch < epochs and not bool(self.fixed):
            self._cluster(model)
        return self.facts()

    def _again(self, epochs: int) -> int | None:
        """The epoch after which clusters are found anew."""
        return None if self.recluster_at is None else round(self.recluster_at * epochs)

    def discover(self, network: nn.Module) -> None:
        """Finds the clusters by the embeddings of `network`, once and for all.

        Args:
            network: images in [0, 1] -> `Output`, such as the model of a run that was trained before.

        Raises:
            ValueError: it returns logits only, or cannot take the images.
        """
        self._cluster(network)
        self.fixed.fill_(True)

    def facts(self) -> dict[str, Any]:
        """Images of each cluster of each class; NMI and purity of the clusters of each class, None where not known.

        A class is left out (None) whose own modes the data does not tell, or that has one.
        """
        if not bool((self.of_image >= 0).any()):
            return {}
        data, number = self._data, self.of_image.cpu()
        place, sizes, nmi, purity = number % self.clusters, [], [], []
        told = torch.tensor([name.rpartition("/")[2] != UNKNOWN_MODE for name in data.mode_names])[data.modes]
        for label in range(data.num_classes):
            own = data.labels == label
            sizes.append(torch.bincount(place[own], minlength=self.clusters).tolist())
            own &= told
            several = len(data.modes[own].unique()) > 1
            found = agreement(place[own], data.modes[own]) if several else None
            nmi.append(None if found is None else found.nmi)
            purity.append(None if found is None else found.purity)
        return {"cluster_sizes": sizes, "mode_nmi": nmi, "mode_purity": purity}

    def _cluster(self, network: nn.Module) -> None:
        """Finds the clusters anew; every process gets those of the first."""
        seed = int(torch.randint(2**31 - 1, ()))
        embedding, nearest = self._seen_by(network)
        before = self.of_image.cpu() % self.clusters if bool((self.of_image >= 0).all()) else nearest
        number = torch.full((len(embedding),), -1)
        for label in self._data.labels.unique().tolist():
            own = self._data.labels == label
            found = clusters_of(
                embedding[own], self.clusters, balanced=self.balanced, silhouette=self.silhouette, seed=seed
            )
            number[own] = in_places_of(found, before[own], self.clusters) + label * self.clusters
        self.of_image = from_first_process(number.to(self.of_image.device))
        logger.info("modes discovered: %s", _said(self.facts(), self._data.class_names))

    @torch.no_grad()
    def _seen_by(self, network: nn.Module) -> tuple[Tensor, Tensor]:
        """Embeddings (N, D), and the place of the nearest prototype of the own class, -1 without a head that suits."""
        head, data = multi_prototype_head(network), as_image_data(self._data, dtypes=float_types(network))
        device = device_of(network)
        suits = head is not None and tuple(head.active.shape) == (data.num_classes, self.clusters)
        found, nearest = [], []
        with attacking(network):
            for rows in torch.arange(len(data)).split(_BATCH):
                embedding = output_of(network, data.pixels(rows, device)).embedding.float()
                found.append(embedding.cpu())
                if head is not None and suits:
                    scores = head.sub_logits(embedding).cpu()
                    nearest.append(scores[torch.arange(len(rows)), data.labels[rows]].argmax(1))
        embeddings = torch.cat(found)
        if not embeddings.shape[1]:
            raise UserError(
                "the model returns logits only, and modes are discovered in embeddings; wrap it: "
                "protoat.with_embedding(model, layer=...)"
            )
        return embeddings, torch.cat(nearest) if suits else torch.full((len(data),), -1)


def _said(facts: dict[str, Any], class_names: tuple[str, ...]) -> str:
    """The clusters in words."""

    def one(name: str, sizes: list[int], nmi: float | None) -> str:
        used = sum(size > 0 for size in sizes)
        return f"{used} in {name}" + ("" if nmi is None else f" (NMI {nmi:.2f})")

    said = [one(*row) for row in zip(class_names, facts["cluster_sizes"], facts["mode_nmi"], strict=True)]
    return ", ".join(said[:5]) + (f" and {len(said) - 5} classes more" if len(said) > 5 else "")
