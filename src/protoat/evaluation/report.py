"""Reports of an evaluation: counts for all images, each class and each mode; and how they are printed."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from protoat.attacks.examination import Finding
from protoat.data import ImageData
from protoat.evaluation.statistics import Count, count_by, worst
from protoat.names import printable
from protoat.threats import ThreatModel

Rows = Sequence[Sequence[str]]


@dataclass(frozen=True, eq=False, repr=False)
class AttackReport:
    """Robust accuracy under one attack, or under several together.

    Attributes:
        count: all images that were measured.
        per_class, per_mode: the same for each class and mode that has images, by name.
        parameters: everything that defines the attack.
        correct_mask: (M,) bool on the CPU, each measured image in the order of the data.
        seconds: time the measurement took, all processes together.
        alarms: why an attack that may stop early went on to its second stage; empty where it stopped, None for an
            attack of one stage.
        made_with: in a record, how it was measured: size of batches, device, versions.
    """

    count: Count
    per_class: dict[str, Count]
    per_mode: dict[str, Count]
    parameters: dict[str, Any]
    correct_mask: Tensor
    seconds: float
    alarms: Sequence[str] | None = None
    made_with: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        data: ImageData,
        indices: Tensor,
        correct: Tensor,
        parameters: dict[str, Any],
        seconds: float,
        *,
        alarms: Sequence[str] | None = None,
    ) -> AttackReport:
        """Counts of `correct`, (M,) bool, over the classes and modes of the images at `indices`, (M,) int64."""
        return cls(
            Count(int(correct.sum()), len(correct)),
            count_by(correct, data.labels.cpu()[indices], data.class_names),
            count_by(correct, data.modes.cpu()[indices], data.mode_names),
            parameters,
            correct,
            seconds,
            alarms,
        )

    def __repr__(self) -> str:
        return f"AttackReport({self.count.in_percent} % of {self.count.total} images)"

    @property
    def accuracy(self) -> float:
        """Fraction of the images that stay right."""
        return self.count.accuracy

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return self.count.interval

    @property
    def has_modes(self) -> bool:
        """Whether modes are known that are not the classes themselves."""
        parts = ({name: count.total for name, count in group.items()} for group in (self.per_class, self.per_mode))
        return next(parts) != next(parts)

    @property
    def worst_class(self) -> tuple[str, Count]:
        """The class with the lowest accuracy."""
        return worst(self.per_class)

    @property
    def worst_mode(self) -> tuple[str, Count]:
        """The mode with the lowest accuracy; the worst class where no modes are known, see `has_modes`."""
        return worst(self.per_mode)

    @property
    def worst_groups(self) -> list[tuple[str, Count]]:
        """The worst class and, where modes are known, the worst mode."""
        return [self.worst_class, self.worst_mode] if self.has_modes else [self.worst_class]

    @property
    def lowest(self) -> list[str]:
        """These with their accuracy in per cent."""
        return [f"{name}: {100 * count.accuracy:.1f}" for name, count in self.worst_groups]

    def to_json(self) -> dict[str, Any]:
        """Counts and parameters as JSON values, and one character for each image: ``1`` where it stays right."""
        groups = {"per_class": self.per_class, "per_mode": self.per_mode}
        return {
            **self.count._asdict(),
            **{key: {name: count._asdict() for name, count in group.items()} for key, group in groups.items()},
            "parameters": self.parameters,
            "seconds": round(self.seconds, 3),
            "outcomes": "".join("1" if right else "0" for right in self.correct_mask.tolist()),
            **({} if self.alarms is None else {"alarms": [*self.alarms]}),
            **self.made_with,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> AttackReport:
        """What `to_json` gave."""
        outcomes = torch.tensor([character == "1" for character in content["outcomes"]], dtype=torch.bool)
        per_class, per_mode = (
            {name: Count(group["correct"], group["total"]) for name, group in content[key].items()}
            for key in ("per_class", "per_mode")
        )
        count = Count(content["correct"], content["total"])
        known = ("correct", "total", "per_class", "per_mode", "parameters", "seconds", "outcomes", "alarms")
        made_with = {key: value for key, value in content.items() if key not in known}
        seconds, alarms = content["seconds"], content.get("alarms")
        return cls(count, per_class, per_mode, content["parameters"], outcomes, seconds, alarms, made_with)


@dataclass(frozen=True, repr=False)
class Report(Mapping[str, AttackReport]):
    """A mapping of attacks to an `AttackReport` each, on the same images; ``print`` shows it as a table.

    Attributes:
        attacks: by name.
        worst_case: an image counts as right only if it stays right under every attack that enters; see `evaluate`.
        indices: (M,) int64, which images of the data were measured.
        findings: what makes these numbers mean less than they say, and which attacks could not be measured.

    >>> right = torch.tensor([True, True, False, True])
    >>> cats, dogs = Count(2, 2), Count(1, 2)
    >>> found = AttackReport(Count(3, 4), {"cat": cats, "dog": dogs}, {"tabby": cats, "pug": dogs}, {}, right, 1.0)
    >>> print(Report({"pgd10": found}, found, torch.arange(4)))
    attack      accuracy, % [95 % interval]  worst class  worst mode
    pgd10       75.0 [30.1, 95.4]            dog: 50.0    pug: 50.0
    worst case  75.0 [30.1, 95.4]            dog: 50.0    pug: 50.0
    """

    attacks: dict[str, AttackReport]
    worst_case: AttackReport
    indices: Tensor
    findings: tuple[Finding, ...] = ()

    def __getitem__(self, name: str) -> AttackReport:
        if name not in self.attacks:
            why = [found.text for found in self.findings if found.code in ("not-applicable", "raised")]
            raise KeyError(f"{name!r} was not measured, only {', '.join(self.attacks)}; {'; '.join(why)}".rstrip("; "))
        return self.attacks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.attacks)

    def __len__(self) -> int:
        return len(self.attacks)

    @property
    def entries(self) -> dict[str, AttackReport]:
        """Every attack, then the worst case."""
        return {**self.attacks, "worst case": self.worst_case}

    def __repr__(self) -> str:
        count = self.worst_case.count
        return f"Report({len(self)} attacks on {count.total} images, worst case {100 * count.accuracy:.1f} %)"

    def __str__(self) -> str:
        return as_text(accuracies(self.entries))

    def _repr_html_(self) -> str:
        return as_html(accuracies(self.entries))

    def to_json(self) -> dict[str, Any]:
        """``{"attacks": {name: {"correct", "total", "per_class", "per_mode", ...}}, "worst_case": {...}}``."""
        return {
            "attacks": {name: report.to_json() for name, report in self.attacks.items()},
            "worst_case": self.worst_case.to_json(),
            "lint": [found._asdict() for found in self.findings],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Report:
        """What `to_json` gave; which images of the data these were is for the caller to know."""
        case = AttackReport.from_json(content["worst_case"])
        attacks = {name: AttackReport.from_json(entry) for name, entry in content["attacks"].items()}
        findings = tuple(Finding(**found) for found in content.get("lint", ()))
        return cls(attacks, case, torch.arange(case.count.total), findings)


def worst_case(
    data: ImageData, indices: Tensor, attacks: Mapping[str, AttackReport], threat: ThreatModel | None = None
) -> AttackReport:
    """What no attack has broken, image by image.

    Args:
        data: images with classes and modes.
        indices: (M,) int64, which of them were measured.
        attacks: by name.
        threat: attacks in another norm or with a larger radius do not enter; None lets all enter.
    """
    entering = {name: found for name, found in attacks.items() if threat is None or _inside(found.parameters, threat)}
    correct = torch.ones(len(indices), dtype=torch.bool)
    for found in entering.values():
        correct &= found.correct_mask
    parameters: dict[str, Any] = {"attack": "worst case", "attacks": list(entering)}
    if threat is not None:
        parameters |= threat.to_json()
    return AttackReport.of(data, indices, correct, parameters, sum(found.seconds for found in entering.values()))


def innermost(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of an attack inside another one, such as a targeted one, the parameters of the attack that runs."""
    while isinstance(parameters.get("of"), Mapping):  # a record is from outside
        parameters = parameters["of"]
    return parameters


def _inside(parameters: Mapping[str, Any], threat: ThreatModel) -> bool:
    """Whether all that the attack may do is allowed by the threat model."""
    parameters = innermost(parameters)
    if parameters["attack"] is None:
        return True
    return bool(parameters["norm"] == threat.norm and parameters["eps"] <= threat.eps * (1 + 1e-9))


def accuracies(entries: Mapping[str, AttackReport], measured: Mapping[str, str] = MappingProxyType({})) -> Rows:
    """A heading and a row for each attack: accuracy with its interval, worst class and known mode.

    Args:
        measured: of each entry, whether it is of the latest measurement; empty where all are.
    """
    rows = [["attack", "accuracy, % [95 % interval]", *lowest_columns(entries), *(["measured"] if measured else [])]]
    for name, found in entries.items():
        rows.append([name, found.count.in_percent, *found.lowest, *([measured[name]] if measured else [])])
    return rows


def lowest_columns(entries: Mapping[str, AttackReport]) -> list[str]:
    """What the entries of `AttackReport.lowest` are of."""
    return ["worst class", "worst mode"][: 1 + any(found.has_modes for found in entries.values())]


def as_text(rows: Rows) -> str:
    """Columns under one another.

    >>> print(as_text([("attack", "%"), ("pgd10", "75.0")]))
    attack  %
    pgd10   75.0
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def as_html(rows: Rows, title: str = "") -> str:
    """A table without colours of its own, so that it looks right on light and dark pages.

    >>> as_html([("attack", "%"), ("<b>", "75.0")], "ours")
    '<table><caption>ours</caption><tr><th>attack</th><th>%</th></tr><tr><td>&lt;b&gt;</td><td>75.0</td></tr></table>'
    """

    def line(row: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(printable(cell))}</{tag}>' for cell in row)}</tr>"

    head, *body = rows
    caption = f"<caption>{html.escape(printable(title))}</caption>" if title else ""
    return f"<table>{caption}{line(head, 'th')}{''.join(line(row, 'td') for row in body)}</table>"
