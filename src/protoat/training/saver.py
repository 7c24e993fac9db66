"""Writes everything a run stores: checkpoints, rollback states, exported weights."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from protoat.errors import CheckpointError, UserError
from protoat.storage.files import open_folder
from protoat.storage.locks import LOCK, on_main
from protoat.training import checkpoint
from protoat.training.learner import Learner
from protoat.training.nested import part, prefixed
from protoat.training.run_state import RunState
from protoat.training.weights import check_same_architecture, restore, save_weights

logger = logging.getLogger(__name__)


class Kept(Protocol):
    """Something with a state, as tensors."""

    def state(self) -> dict[str, Tensor]: ...

    def restore(self, tensors: Mapping[str, Tensor], /) -> None: ...


class Saver:
    """Stores a learner and its run state under one folder, or keeps what must be kept in memory.

    Left as a context by an error before the first step, it leaves a folder that was empty as it was, so that the next
    call begins a run of its own.

    Args:
        out: folder of the run, which is there; None stores nothing.
        kept: what else has a state of its own in each process, by name.
    """

    def __init__(self, out: Path | None, learner: Learner, state: RunState, kept: Mapping[str, Kept]) -> None:
        self.out = out
        self.folder = None if out is None else out / "checkpoints"
        self.learner = learner
        self.state = state
        self.accelerator = learner.accelerator
        self.kept = kept
        self.was_empty = out is not None and {LOCK}.issuperset(path.name for path in out.iterdir())
        self.saved_update = 0
        self._epoch_start: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def begin(self, *, resume: bool) -> None:
        """Goes on from the newest intact checkpoint; writes the first one where there is none.

        Raises:
            ValueError: checkpoints of another run or architecture, or any at all without `resume`; or damaged best
                weights that no checkpoint holds.
            CheckpointError: every checkpoint is damaged.
            DiskError: the folder cannot be written.
        """
        if self.folder is None:
            return
        found = checkpoint.load_latest(self.folder)
        if found is None:
            self.save()
            return
        if not resume:
            raise UserError(f"{self.folder} holds checkpoints; write resume=True or choose another folder")
        if not isinstance(found.state.get("run"), dict):
            raise CheckpointError(f"{found.path} says nothing of the run; choose another folder")
        self.state.resume(found.state["run"])
        if self.state.best is not None:
            on_main(self._keep_best, "read the best weights")
        _say_other_threads(found.state, self.accelerator.device)
        self._restore(found)
        folder = self.folder
        on_main(lambda: checkpoint.clear(folder, found), f"remove what a kill left in {folder}")
        self.saved_update = self.state.update

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        failed = isinstance(error, Exception) and self.state.update == 0
        if failed and self.was_empty and self.out is not None and self.accelerator.is_main_process:
            with open_folder(self.out) as folder:
                for name in folder.names():
                    if name != LOCK:
                        folder.remove(name)

    def _keep_best(self) -> None:
        """Refuses to go on with best weights that are damaged, because they will not be written again."""
        assert self.out is not None
        with suppress(FileNotFoundError):  # the user's choice
            restore(self.out / "best.safetensors")

    def save(self) -> Path | None:
        """Writes a checkpoint."""
        if self.folder is None:
            return None
        common, own, plain = self.learner.state()
        for name, keeper in self.kept.items():
            own |= prefixed(f"kept.{name}", keeper.state())
        tensors = {f"process-{self.accelerator.process_index}": own}
        if self.accelerator.is_main_process:
            tensors["common"] = common
        self.saved_update = self.state.update
        return checkpoint.save(
            self.folder,
            self.state.update,
            tensors,
            {"run": asdict(self.state), "learner": plain, "threads": torch.get_num_threads()},
        )

    def begin_epoch(self) -> None:
        """Without a folder, keeps a copy of the state an epoch may have to return to."""
        if self.folder is None:
            common, own, plain = self.learner.state()
            copies = {key: value.detach().to("cpu", copy=True) for key, value in (common | own).items()}
            self._epoch_start = copies, copy.deepcopy(plain)

    def return_to_epoch_start(self) -> None:
        """Takes back the present epoch."""
        if self.folder is not None:
            self._restore(checkpoint.load(self.folder / f"{self.state.epoch_update:08d}"))
        elif self._epoch_start is not None:
            self.learner.restore(*self._epoch_start)

    def export(self, name: str, facts: dict[str, Any]) -> None:
        """Writes ``<name>.safetensors`` and ``<name>.json``: the deployed weights, and what they are."""
        if self.out is None:
            return
        path = self.out / f"{name}.safetensors"
        on_main(lambda: save_weights(path, self.learner.deployed, self.learner.objective, facts), f"write {path}")

    def _restore(self, found: checkpoint.Checkpoint) -> None:
        tensors = found.tensors("common") | found.tensors(f"process-{self.accelerator.process_index}")
        common, own, _ = self.learner.state()
        for name in ("model", "average", "objective.regularizer"):
            check_same_architecture(part(name, common | own), part(name, tensors), found.path)
        try:
            self.learner.restore(tensors, found.state["learner"])
            for name, keeper in self.kept.items():
                if state := part(f"kept.{name}", tensors):
                    keeper.restore(state)
                elif self.state.update:
                    logger.warning("%s is older than what it lacks: the state of the %s", found.path, name)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{found.path} does not fit this method or optimizer ({error}); choose another folder"
            ) from error


def saved_threads(folder: Path) -> int | None:
    """The number of threads that the newest checkpoint in a folder was saved with; None where it is not known.

    Another number gives the same results but for the last bits.
    """
    for name in reversed(checkpoint.existing(folder)):
        with suppress(CheckpointError):  # whoever resumes it says so
            return _threads_in(checkpoint.load(folder / name, verify=False).state)
    return None


def _threads_in(state: Mapping[str, Any]) -> int | None:
    """What the state of a checkpoint says of threads; None where it says nothing, as earlier versions."""
    found = state.get("threads")
    return found if type(found) is int and found > 0 else None


def _say_other_threads(state: Mapping[str, Any], device: torch.device) -> None:
    """Says in the log where a run on the CPU goes on with another number than the checkpoint of `state` has."""
    then, now = _threads_in(state), torch.get_num_threads()
    if device.type == "cpu" and then not in (None, now):
        logger.warning(
            "saved on %d threads and resumed on %d: the run ends as it would have but for rounding; for the very same "
            "bits write OMP_NUM_THREADS=%d",
            then,
            now,
            then,
        )
