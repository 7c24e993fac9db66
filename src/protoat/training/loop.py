"""The loop over epochs, batches and updates."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from protoat.attacks.precision import present_precision
from protoat.epochs import Epoch
from protoat.errors import Interrupted, UserError
from protoat.functional.distributed import mean_over_processes
from protoat.training.batches import Batches
from protoat.training.learner import Learner
from protoat.training.metrics import MetricsLog, TermSums
from protoat.training.progress import ProgressBar
from protoat.training.run_state import RunState
from protoat.training.saver import Saver
from protoat.training.seeding import seed_global
from protoat.training.signals import StopRequest
from protoat.training.validation import Validation

logger = logging.getLogger(__name__)


def reading_interval(device: torch.device) -> int:
    """Updates between two looks at numbers on the device: each look makes an accelerator wait for its queue."""
    return 1 if device.type == "cpu" else 20


@dataclass
class Loop:
    """Runs what `fit` put together."""

    learner: Learner
    batches: Batches
    validation: Validation | None
    state: RunState
    saver: Saver
    log: MetricsLog
    bar: ProgressBar
    stop: StopRequest

    def __post_init__(self) -> None:
        self.settings = self.learner.settings
        self.schedule, self.epochs, self.seed = self.settings.schedule, self.settings.epochs, self.settings.seed
        self.device = self.learner.accelerator.device
        self.process = self.learner.accelerator.process_index
        self.sums = TermSums(reading_interval(self.device))

    def run(self) -> None:
        """Trains up to the last epoch, a method's wish to stop, or a signal."""
        while self.state.epoch < self.epochs and self.state.stopped is None:
            self._epoch()
            self.saver.save()
            self._heed_stop(saved=True)
        self.saver.export("last", {"epoch": self.state.epoch, "update": self.state.update})
        if self.learner.average is not None:
            self.learner.unwrapped.load_state_dict(self.learner.deployed.state_dict())

    def _epoch(self) -> None:
        state = self.state
        started = time.perf_counter() - state.seconds
        self.learner.train()
        self.learner.model.training = self.learner.unwrapped.training  # of what wraps it
        self.sums.restart(state.sums, state.count)
        self.saver.begin_epoch()
        objective, length = self.learner.objective, len(self.batches)
        epoch = objective.epoch(state.epoch + 1, self.epochs, self.learner.unwrapped, self.learner.raw_optimizer)
        for batch in epoch.batches(self.batches.epoch(state.epoch, state.batch), length=length, done=state.batch):
            self._batch(batch)
            state.seconds = time.perf_counter() - started
            self.bar.advance(state.epoch + 1, self.epochs, self.sums.latest)
            self._heed_stop(saved=False)
            every = self.settings.checkpoint_every
            if every is not None and state.update - self.saver.saved_update >= every and state.batch < length:
                self._save_inside()
        line = self._end_epoch(epoch)
        line["seconds"] = round(time.perf_counter() - started, 3)
        state.finish_epoch(line)
        by_mode = self.validation.by_mode if self.validation is not None and "validation" in line else {}
        self.log.append(line, by_mode)
        said = f"epoch {line['epoch']} of {self.epochs}: {_summary(line)}"
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s", said)
        else:  # a script that has set up no logging
            self.bar.say(said)

    def _batch(self, batch: tuple[Any, ...]) -> None:
        state, objective = self.state, self.learner.objective
        seed_global(self.device, "update", self.seed, state.update, self.process)
        # Closed on errors too: a method may have displaced weights that it must put back.
        with closing(objective.losses(self.learner.model, *batch)) as updates:  # type: ignore[type-var] # a generator
            for terms in updates:
                self.sums.add(terms, state.update, state.epoch + 1)
                self.learner.step(terms.total, None if self.schedule.moves_optimizer else self._lr(state.update))
                self.schedule.after_update()
                state.update += 1
        averaging = self.settings.averaging
        if averaging is not None and averaging.after_batch(state.epoch + state.batch / len(self.batches)):
            self.learner.average_weights()
        state.batch += 1

    def _lr(self, update: int) -> float:
        per_epoch = len(self.batches) * self.learner.objective.updates_per_batch
        return self.schedule.lr(self.learner.base_lr, update, per_epoch * self.epochs, per_epoch)

    def _end_epoch(self, present: Epoch) -> dict[str, Any]:
        """What is due after the last batch, and the line it gives."""
        state, learner, epoch = self.state, self.learner, present.number
        line: dict[str, Any] = {"epoch": epoch, "update": state.update, "lr": self._lr(state.update - 1)}
        line |= self.sums.means(self.device)
        learner.check_finite(state.update - 1, epoch)
        learner.synchronise_batch_norm()
        seed_global(self.device, "epoch end", self.seed, epoch)
        end = present.end()
        line["eps"] = learner.objective.method.eps
        if present_precision() != "fp32":
            line["attack_precision"] = present_precision()
        if end.stop is not None:
            self.saver.return_to_epoch_start()
            state.stopped = line["stopped"] = end.stop
            logger.warning("stopped and went back to the end of epoch %d: %s", state.epoch, end.stop)
            return line
        line["objective"] = end.facts
        learner.merge_in_average(end.facts.get("head_merged", []))
        self._average(epoch)
        if self.validation is not None and (epoch % self.settings.validate_every == 0 or epoch == self.epochs):
            measured = line["validation"] = self.validation(learner.deployed)
            if state.best is None or self._merit(measured) > self._merit(state.best):
                state.best = {"epoch": epoch, "update": state.update, **measured}
                self.saver.export("best", state.best)
        self.schedule.after_epoch(self._merit(line["validation"])[0] if "validation" in line else None)
        return line

    def _average(self, epoch: int) -> None:
        """What the average does at the end of pass `epoch`."""
        learner, averaging = self.learner, self.settings.averaging
        if averaging is None or not averaging.after_epoch(epoch, self._worst_class):
            return
        learner.average_weights()
        if averaging.bn_batches:
            learner.reestimate_batch_norm(self._seeded(self.state.epoch, averaging.bn_batches))
            learner.synchronise_batch_norm()

    def _worst_class(self) -> float:
        if self.validation is None:
            raise UserError("this averaging asks for held-out images; pass validation")
        return self.validation.worst_class(self.learner.unwrapped)

    def _merit(self, measured: dict[str, Any]) -> tuple[float, ...]:
        """What chooses comes first, then what breaks ties; the earlier of two equals stays."""
        usual = measured.get("robust", measured["clean"]), measured["clean"]
        if self.settings.select == "robust":
            return usual
        worst = measured["worst_mode"]
        return (worst["correct"] / worst["total"], *usual)

    def _seeded(self, epoch: int, count: int) -> Generator[tuple[Any, ...], None, None]:
        with closing(self.batches.again(epoch, count)) as batches:
            for index, batch in enumerate(batches):
                seed_global(self.device, "batch norm", self.seed, epoch, index, self.process)
                yield batch

    def _save_inside(self) -> None:
        self.sums.flush()
        self.learner.check_finite(self.state.update - 1, self.state.epoch + 1)
        self.state.sums, self.state.count = dict(self.sums.sums), self.sums.count
        self.saver.save()

    def _heed_stop(self, *, saved: bool) -> None:
        """Saves and ends the run when a signal has arrived at any process."""
        wanted = self.stop.signal is not None
        if self.learner.accelerator.num_processes > 1:
            # Every process must ask at the same batches.
            if not saved and self.state.batch % reading_interval(self.device):
                return
            wanted = bool(mean_over_processes(torch.tensor(float(wanted), device=self.device)) > 0)
        if not wanted:
            return
        if not saved:
            self._save_inside()
        number = self.stop.signal or signal.SIGTERM
        place = f"update {self.state.update}, epoch {self.state.epoch + (not saved)} of {self.epochs}"
        where = (
            "nothing was saved, because no folder was given"
            if self.saver.folder is None
            else f"saved in {self.saver.folder}; run the same command again to resume"
        )
        raise Interrupted(f"{signal.Signals(number).name} after {place}: {where}", number)


def _summary(line: dict[str, Any]) -> str:
    """One epoch in words; ``metrics.jsonl`` has all of it."""
    named = ("base", "metric", "norm", "mode", "total")
    terms = ", ".join(f"{name} {line[name]:.3f}" for name in named if name in line)
    accuracies = {name: value for name, value in line.get("validation", {}).items() if isinstance(value, float)}
    measured = ", ".join(f"{name} {value:.1%}" for name, value in accuracies.items())
    parts = [terms, f"eps {line['eps']:.3g}, lr {line['lr']:.3g}", measured and f"held out: {measured}"]
    return "; ".join([*filter(None, parts), f"{line['seconds']:.0f} s"])
