"""The record of a linear evaluation: accuracies of linear heads on a trained encoder and on a random one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from protoat.evaluation.record import Judged
from protoat.evaluation.report import AttackReport

Heads = Mapping[str, Mapping[str, AttackReport]]


@dataclass(frozen=True)
class Probe:
    """What ``probe.json`` holds.

    Attributes:
        subject: whose weights, on which test images.
        encoders: ``trained`` or ``random`` -> ``standard`` or ``robust`` head -> attack -> what it leaves right.
        heads: how each head was trained.
    """

    subject: Judged
    encoders: Mapping[str, Heads]
    heads: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Probe:
        """What `to_json` gave."""
        encoders = {
            encoder: {
                head: {name: AttackReport.from_json(entry) for name, entry in attacks.items()}
                for head, attacks in heads.items()
            }
            for encoder, heads in content["encoders"].items()
        }
        return cls(Judged.from_json(content["subject"]), encoders, content.get("heads", {}))

    def to_json(self) -> dict[str, Any]:
        """Plain values, as ``probe.json`` has them."""
        encoders = {
            encoder: {
                head: {name: found.to_json() for name, found in attacks.items()} for head, attacks in heads.items()
            }
            for encoder, heads in self.encoders.items()
        }
        return {"subject": self.subject.to_json(), "heads": self.heads, "encoders": encoders}

    @property
    def trained(self) -> Heads:
        """What the heads read off the trained encoder."""
        return self.encoders["trained"]

    @property
    def attacks(self) -> list[str]:
        """What the heads were measured under."""
        return list(self.trained["standard"])

    @property
    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows: encoder, head, and the accuracy under each attack, in per cent with its interval."""
        rows = [
            [encoder, head, *(found.count.in_percent for found in attacks.values())]
            for encoder, heads in self.encoders.items()
            for head, attacks in heads.items()
        ]
        return ["encoder", "head", *self.attacks], rows

    def with_earlier(self, before: Probe) -> Probe:
        """The same with the attacks of one before, where that is of the same heads on the same images."""
        if (before.subject, before.heads) != (self.subject, self.heads):
            return self
        encoders = {
            encoder: {head: {**before.encoders[encoder][head], **attacks} for head, attacks in heads.items()}
            for encoder, heads in self.encoders.items()
        }
        return Probe(self.subject, encoders, self.heads)
