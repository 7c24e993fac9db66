"""The metrics of an epoch: sums of the loss terms, the line of ``metrics.jsonl``, and the numbers that trackers get."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from protoat.errors import NonFiniteLossError
from protoat.functional.distributed import mean_over_processes
from protoat.names import printable
from protoat.storage.locks import on_main
from protoat.storage.manifest import Log
from protoat.training.trackers import Trackers
from protoat.types import LossTerms

_MOST = 256  # numbers of one list or mapping: a page of charts shows no more
_EVENTS = ("merged", "dropped", "head_merged")  # lists of what happened, of which the length counts


class TermSums:
    """Adds up the terms of each update, and raises at the first that is not finite.

    Reading a number off a GPU makes it wait, so terms are read `every` so many updates; whoever saves calls `flush`
    first, so that nothing spoilt is ever saved.

    Attributes:
        sums: by term name.
        count: updates added up.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.sums: dict[str, float] = {}
        self.count = 0
        self.latest: dict[str, float] = {}
        self._pending: list[tuple[int, int, dict[str, Tensor]]] = []

    def add(self, terms: LossTerms, update: int, epoch: int) -> None:
        """Takes the terms of one update (index from 0, epoch from 1).

        Raises:
            NonFiniteLossError: names the term.
        """
        self._pending.append((update, epoch, terms.named()))
        if len(self._pending) >= self.every:
            self.flush()

    def flush(self) -> None:
        """Reads what is pending; raises as `add` does."""
        if not self._pending:
            return
        rows = torch.stack([torch.stack(list(named.values())).float() for _, _, named in self._pending]).tolist()
        pending, self._pending = self._pending, []
        for (update, epoch, named), row in zip(pending, rows, strict=True):
            self.latest = dict(zip(named, row, strict=True))
            for name, value in self.latest.items():
                if not math.isfinite(value):
                    raise NonFiniteLossError(name, value, update, epoch)
                self.sums[name] = self.sums.get(name, 0.0) + value
            self.count += 1

    def means(self, device: torch.device) -> dict[str, float]:
        """Mean of each term over the updates so far and over the processes."""
        self.flush()
        dtype = torch.float32 if device.type == "mps" else torch.float64
        own = torch.tensor([value / self.count for value in self.sums.values()], dtype=dtype, device=device)
        return dict(zip(self.sums, mean_over_processes(own).tolist(), strict=True))

    def restart(self, sums: dict[str, float], count: int) -> None:
        """Begins an epoch, or goes on in the middle of one."""
        self.sums, self.count = dict(sums), count


class MetricsLog:
    """Writes what each epoch brought into ``metrics.jsonl``, and reports it to the trackers.

    Args:
        out: folder of the run; None writes no files.
        history: lines of the epochs a resumed run has behind it. The file is cut back to them.
        trackers: of the run, which begin.
        class_names: of the training images, where they are known.
    """

    def __init__(
        self,
        out: Path | None,
        history: list[dict[str, Any]],
        accelerator: Accelerator,
        trackers: Trackers,
        class_names: Sequence[str],
    ) -> None:
        self.accelerator = accelerator
        self.trackers = trackers
        self.class_names = class_names
        self._log: Log | None = None  # of the main process
        self._what = "tell trackers" if out is None else f"write {out / 'metrics.jsonl'}"

        def begin() -> None:
            if out is not None:
                self._log = Log(out / "metrics.jsonl", b"".join(map(_line, history)))
            trackers.begin()

        on_main(begin, self._what)

    def append(self, line: dict[str, Any], by_mode: Mapping[str, Mapping[str, float]]) -> None:
        """Adds the line of one epoch. A line that was cut short by a kill is removed when the run resumes.

        Args:
            line: of ``metrics.jsonl``.
            by_mode: accuracies on held-out images of each mode, for trackers.
        """
        told = numbers(line, self.class_names) | numbers({"validation": by_mode})
        self.accelerator.log(told, step=line["epoch"])

        def write() -> None:
            self.trackers.log(told, line["epoch"])
            if self._log is not None:
                self._log.append(_line(line))

        on_main(write, self._what)


def _line(line: dict[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"


def numbers(line: Mapping[str, Any], class_names: Sequence[str] = ()) -> dict[str, float]:
    """The numbers of a line of ``metrics.jsonl``, nested ones behind ``name/``.

    Those of a list have their place as name, or that of their class where it is as long as there are classes. Of more
    than 256 in one list, or in one mapping that holds numbers alone, the least, the mean and the greatest are told.

    >>> numbers({"epoch": 1, "objective": {"usage": [[0.9, 0.1], [0.5, 0.5]], "merged": [[0, 1, 2]]}}, ("cat", "dog"))
    {'epoch': 1, 'objective/usage/cat/0': 0.9, 'objective/usage/cat/1': 0.1, 'objective/usage/dog/0': 0.5, \
'objective/usage/dog/1': 0.5, 'objective/merged': 1}
    """
    found: dict[str, float] = {}
    for key, value in line.items():
        name = printable(key)
        if key in _EVENTS and isinstance(value, Sequence):
            found[name] = len(value)
        elif isinstance(value, Mapping):
            plain = all(isinstance(each, int | float) for each in value.values())  # those of a parent are of many kinds
            inner = numbers(value, class_names)
            found |= {f"{name}/{key}": number for key, number in (_few(inner) if plain else inner).items()}
        elif isinstance(value, list):
            found |= {f"{name}/{place}": number for place, number in _few(dict(_of_list(value, class_names))).items()}
        elif isinstance(value, int | float):
            found[name] = value
    return found


def _of_list(values: list[Any], names: Sequence[str] = ()) -> Iterator[tuple[str, float]]:
    """The numbers of a list, and of the lists in it, by place."""
    for place, value in enumerate(values):
        name = printable(names[place]) if len(names) == len(values) else str(place)
        if isinstance(value, list):
            yield from ((f"{name}/{inner}", number) for inner, number in _of_list(value))
        elif isinstance(value, int | float):
            yield name, value


def _few(found: dict[str, float]) -> dict[str, float]:
    if len(found) <= _MOST:
        return found
    values = found.values()
    return {"least": min(values), "mean": sum(values) / len(values), "greatest": max(values)}
