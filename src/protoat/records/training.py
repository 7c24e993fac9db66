"""What a run records of its training: a line for each epoch, and the best of them on held-out images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from protoat.evaluation import Count


@dataclass(frozen=True)
class HeldOut:
    """Accuracies in [0, 1] on held-out images; ``robust`` is None where they were not attacked.

    ``worst_mode`` is the name of the mode where it is lowest, with its count, where modes were looked at; of the class
    where `grouped_by` says that no modes are known.

    >>> print(HeldOut(100, 0.61, 0.47))
    clean 61.0%, robust 47.0%
    """

    images: int
    clean: float
    robust: float | None = None
    worst_mode: tuple[str, Count] | None = None
    grouped_by: Literal["mode", "class"] = "mode"

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> HeldOut:
        """Of what ``best.json``, or ``validation`` in a line of ``metrics.jsonl``, holds."""
        worst = content.get("worst_mode")
        named = None if worst is None else (worst["mode"], Count(worst["correct"], worst["total"]))
        return cls(content["images"], content["clean"], content.get("robust"), named)

    def __str__(self) -> str:
        said = [f"{name} {share:.1%}" for name, share in self.shares.items()]
        if self.worst_mode is not None:
            said.append(f"worst {self.grouped_by} {self.worst_mode[1].accuracy:.1%} ({self.worst_mode[0]})")
        return ", ".join(said)

    @property
    def shares(self) -> dict[str, float]:
        """The accuracies that were measured, by name."""
        return {"clean": self.clean, **({} if self.robust is None else {"robust": self.robust})}

    def count(self, name: str) -> Count:
        """Images that stay right, clean or attacked."""
        return Count(round(self.shares[name] * self.images), self.images)


@dataclass(frozen=True)
class FoundModes:
    """The modes that training has discovered, by class.

    Attributes:
        sizes: images of each cluster.
        nmi, purity: how well clusters agree with the true modes; None where these are not known, or one.
    """

    sizes: list[list[int]]
    nmi: list[float | None]
    purity: list[float | None]

    @classmethod
    def from_json(cls, learned: Mapping[str, Any]) -> FoundModes | None:
        """Of what ``objective`` in a line of ``metrics.jsonl`` holds; None where nothing was discovered."""
        if "cluster_sizes" not in learned:
            return None
        unknown = [None] * len(learned["cluster_sizes"])
        return cls(learned["cluster_sizes"], *(learned.get(key, unknown) for key in ("mode_nmi", "mode_purity")))


@dataclass(frozen=True)
class Epoch:
    """A line of ``metrics.jsonl``.

    Attributes:
        epoch: from 1.
        total: mean loss.
        lr: learning rate at the end.
        seconds: that it took, with validation.
        update: how many updates were made so far; None in the first records.
        held_out: accuracies on held-out images, where they were measured.
        prototype_counts: prototypes of each class that are left, of a run that has such.
        usage: share of the examples of each class that each prototype takes.
        modes: the modes that were discovered, of a run that has such.
        in_use: prototypes of each class that 1 % or more of its images are nearest to; None in earlier records, whose
            `usage` is the soft assignment since the last merge.
        group_weights: probability of each group, of a run that weighs images.
        stopped: why the method ended the run and took the epoch back.
    """

    epoch: int
    total: float
    lr: float
    seconds: float
    update: int | None = None
    held_out: HeldOut | None = None
    prototype_counts: list[int] | None = None
    usage: list[list[float]] | None = None
    modes: FoundModes | None = None
    group_weights: list[float] | None = None
    stopped: str | None = None
    in_use: list[int] | None = None

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Epoch:
        """Of a line that `protoat.records.types` allows."""
        measured, learned = line.get("validation"), line.get("objective", {})
        return cls(
            line["epoch"],
            line["total"],
            line["lr"],
            line["seconds"],
            line.get("update"),
            None if measured is None else HeldOut.from_json(measured),
            learned.get("prototype_counts"),
            learned.get("usage"),
            FoundModes.from_json(learned),
            learned.get("group_weights"),
            line.get("stopped"),
            learned.get("in_use"),
        )


@dataclass(frozen=True)
class Best:
    """``best.json``: the epoch whose weights did best on held-out images."""

    epoch: int
    held_out: HeldOut

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Best:
        """Of what the file holds."""
        return cls(content["epoch"], HeldOut.from_json(content))
