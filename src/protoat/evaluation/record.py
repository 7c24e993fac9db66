"""The record of a measurement: what was evaluated, and the accuracy under each attack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from protoat.attacks.examination import Finding
from protoat.evaluation.report import AttackReport, accuracies, as_html, as_text
from protoat.threats import ThreatModel

WORST_CASE = "worst case"


@dataclass(frozen=True)
class Judged:
    """Whose weights were judged on which images; None is what an earlier version did not say.

    Attributes:
        weights: name of their file.
        data: name of the images.
        images: how many of them.
        sha256, data_sha256: of weights and images.
        threat: norm and radius.
        more: of another head, another model or another normalisation, by key.
    """

    weights: str = ""
    data: str = ""
    images: int = 0
    sha256: str | None = None
    data_sha256: str | None = None
    threat: ThreatModel | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Judged:
        """What `to_json` gave."""
        known = {key: content[key] for key in ("weights", "data", "images", "sha256", "data_sha256") if key in content}
        threat = content.get("threat")
        more = {key: value for key, value in content.items() if key not in (*known, "threat")}
        return cls(**known, threat=None if threat is None else ThreatModel.from_json(threat), more=more)

    def to_json(self) -> dict[str, Any]:
        """Plain values, without what is not known."""
        threat = None if self.threat is None else self.threat.to_json()
        known = {
            "weights": self.weights,
            "sha256": self.sha256,
            "data": self.data,
            "data_sha256": self.data_sha256,
            "threat": threat,
            "images": self.images,
        }
        return {**{key: value for key, value in known.items() if value is not None}, **self.more}

    def is_like(self, other: Judged) -> bool:
        """Whether all but the number of images is the same."""
        return replace(self, images=other.images) == other

    def changed(self, other: Judged) -> list[str]:
        """Keys in which another one differs."""
        here, there = self.to_json(), other.to_json()
        return [key for key in {**there, **here} if here.get(key) != there.get(key)]


@dataclass(frozen=True, repr=False)
class Evaluation:
    """What ``evaluation.json`` holds: ``run.evaluation["aa"].accuracy``.

    Attributes:
        subject: whose weights, on which images.
        attacks: by name.
        worst_case: over the attacks that the threat model allows; None is what an earlier version did not say.
        findings: what makes these numbers mean less than they say; None where it was not looked for.
        test_images: how many there are, of which a part may have been measured.
    """

    subject: Judged
    attacks: Mapping[str, AttackReport]
    worst_case: AttackReport | None = None
    findings: tuple[Finding, ...] | None = None
    test_images: int | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Evaluation:
        """What `to_json`, or `Report.to_json`, gave."""
        case, findings = content.get("worst_case"), content.get("lint")
        return cls(
            Judged.from_json(content.get("subject", {})),
            {name: AttackReport.from_json(entry) for name, entry in content["attacks"].items()},
            None if case is None else AttackReport.from_json(case),
            None if findings is None else tuple(Finding(**found) for found in findings),
            content.get("test_images"),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, as ``evaluation.json`` has them."""
        content: dict[str, Any] = {
            "subject": self.subject.to_json(),
            "attacks": {name: found.to_json() for name, found in self.attacks.items()},
        }
        if self.worst_case is not None:
            content["worst_case"] = self.worst_case.to_json()
        if self.test_images is not None:
            content["test_images"] = self.test_images
        if self.findings is not None:
            content["lint"] = [found._asdict() for found in self.findings]
        return content

    def __repr__(self) -> str:
        return f"Evaluation({self._about}: {', '.join(self.entries)})"

    def __str__(self) -> str:
        return f"{self._about}\n{as_text(accuracies(self.entries, self.measured))}"

    def _repr_html_(self) -> str:
        return as_html(accuracies(self.entries, self.measured), self._about)

    @property
    def _about(self) -> str:
        threat = "" if self.subject.threat is None else f", {self.subject.threat}"
        return f"{self.subject.weights}, {self.subject.images} images of {self.subject.data}{threat}"

    def __getitem__(self, name: str) -> AttackReport:
        recorded = self.recorded_name(name)
        if recorded is None:
            raise KeyError(f"{name!r} was not measured, only {', '.join(self.entries)}")
        return self.entries[recorded]

    @property
    def entries(self) -> dict[str, AttackReport]:
        """Every attack, then the worst case where there is one."""
        return {**self.attacks, **({} if self.worst_case is None else {WORST_CASE: self.worst_case})}

    @property
    def measured(self) -> dict[str, str]:
        """``latest`` or ``earlier`` for each entry, as its attack was measured; empty where all were at once.

        A record keeps what was measured before on the same weights, images and threat model. What an earlier version
        wrote does not say when, and so is earlier than what does.
        """
        times = {name: str(found.made_with.get("measured", "")) for name, found in self.attacks.items()}
        if len(set(times.values())) < 2:
            return {}
        last = max(times.values())
        return {name: "latest" if times.get(name, last) == last else "earlier" for name in self.entries}

    @property
    def entering(self) -> list[str]:
        """The attacks that the worst case is over; all where there is none."""
        return list(self.attacks) if self.worst_case is None else list(self.worst_case.parameters["attacks"])

    def recorded_name(self, attack: str) -> str | None:
        """What this record calls an attack: ``aa`` by its version, such as ``aa-k2``; None where it has none.

        >>> import torch
        >>> from protoat.evaluation.statistics import Count
        >>> entry = AttackReport(Count(1, 1), {}, {}, {"attack": "AutoAttack"}, torch.tensor([True]), 1.0)
        >>> Evaluation(Judged(), {"aa-k2@0.1": entry}).recorded_name("aa@0.1")
        'aa-k2@0.1'
        """
        if attack in self.entries:
            return attack
        short, *radius = attack.partition("@")
        versions = [name for name, own in self.attacks.items() if own.parameters.get("attack") == "AutoAttack"]
        return next((name for name in versions if short == "aa" and [*name.partition("@")[1:]] == radius), None)
