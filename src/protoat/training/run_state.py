"""The progress of a run, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from protoat.errors import UserError
from protoat.training.identity import differences


@dataclass
class RunState:
    """Position of a run and what it has measured.

    Attributes:
        identity: what must agree for a resumed run to end where the interrupted one would have.
        update: optimizer steps taken, those of an epoch that was taken back included.
        epoch: epochs finished.
        batch: batches done in the present epoch.
        epoch_update: value of `update` when the present epoch began.
        sums, count: loss terms added up over `count` updates of the present epoch.
        seconds: time spent in the present epoch.
        history: the line of each finished epoch.
        best: epoch and accuracies of the best checkpoint.
        stopped: why the run ended early.
    """

    identity: dict[str, Any]
    update: int = 0
    epoch: int = 0
    batch: int = 0
    epoch_update: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    stopped: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The values, ready for JSON."""
        return asdict(self)

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Takes over the values of an interrupted run.

        Raises:
            ValueError: it was another run, and what differs is named; or these are no values of a run.
        """
        if wrong := [name for name in self.as_json() if not self._suits(name, saved.get(name))]:
            raise UserError(f"the state of the run has no {wrong[0]!r} that a run could go on from")
        if different := list(differences(saved["identity"], self.identity)):
            raise UserError(
                f"the folder holds checkpoints of another run ({'; '.join(different)}); "
                "resume with the same settings or choose another folder"
            )
        for entry in fields(self):
            setattr(self, entry.name, saved[entry.name])

    def _suits(self, name: str, value: Any) -> bool:
        """Whether a value out of JSON could stand here."""
        if name == "best":
            return value is None or (isinstance(value, dict) and isinstance(value.get("epoch"), int))
        if name == "stopped":
            return value is None or isinstance(value, str)
        if name == "history":
            return isinstance(value, list) and all(isinstance(line, dict) and "epoch" in line for line in value)
        if name == "sums":
            return isinstance(value, dict) and all(isinstance(number, int | float) for number in value.values())
        if name == "seconds":
            return isinstance(value, int | float)
        return isinstance(value, type(getattr(self, name))) and (name == "identity" or value >= 0)

    def finish_epoch(self, line: dict[str, Any]) -> None:
        """Moves to the beginning of the next epoch; an epoch that was taken back does not count."""
        self.epoch += self.stopped is None
        self.batch = self.count = 0
        self.epoch_update = self.update
        self.sums = {}
        self.seconds = 0.0
        self.history.append(line)
