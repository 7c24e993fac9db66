"""Several trackers, such as TensorBoard and wandb, as one."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accelerate import PartialState
from accelerate.tracking import GeneralTracker

from protoat.errors import DiskError, UserError, in_a_line, on_disk
from protoat.names import printable
from protoat.optional import NotInstalledError
from protoat.storage.files import check_no_links, write
from protoat.storage.manifest import read_record_bytes, write_record
from protoat.storage.parsing import parse_json
from protoat.storage.places import without_machine, without_paths
from protoat.training.tracker_kinds import KINDS, Given, Kind, is_installed

logger = logging.getLogger(__name__)

Loggers = Sequence[str | GeneralTracker] | None

_FILE = "trackers.json"  # which run of each tracker a run folder is logged to
# Of the training that has just ended: measurements could be of earlier weights, and run.json names machine and paths.
_RECORDS = ("recipe.yaml", "metrics.jsonl", "best.json")
_RUN = re.compile(r"[\w.-]{1,256}")


def check_loggers(loggers: Any, out: Any, config: Any = None) -> None:
    """Loggers are known and installed, and have a place for their files.

    Raises:
        ValueError: names the one that is not, and what to install.
    """
    if config is not None and not isinstance(config, Mapping):
        raise UserError(f"config is a {type(config).__name__}, expected a mapping of settings")
    if loggers is None:
        return
    if not isinstance(loggers, list | tuple):
        raise UserError(f"loggers is a {type(loggers).__name__}, expected a list such as ['wandb']")
    for each in loggers:
        if isinstance(each, GeneralTracker):
            continue
        if each not in KINDS:
            raise UserError(f"logger {each!r} is unknown; write one of {', '.join(KINDS)}")
        if not is_installed(each):
            raise NotInstalledError(each, f"'protoat[{each}]'")
        if each == "tensorboard" and out is None:
            raise UserError("tensorboard writes into the folder of the run; pass out")


class Trackers:
    """What is told of a run goes to each of its trackers, on the main process.

    One that fails to begin raises; one that fails later is warned of and left out, as training is worth more. But a
    file in the run's own folder that cannot be written is an error, as is any other.

    Args:
        loggers: names among those of `KINDS`, or trackers of Accelerate; None takes TensorBoard where it is installed
            and there is a folder.
        folder: of the run; ``trackers.json`` in it says which run of each tracker it is logged to, so that a resumed
            run goes on there.
        settings: of the run, in nested mappings; of a path its last part is told.
        ended: whether the run has ended once this is over, if no error comes; a measurement of an interrupted one does
            not end it.
    """

    def __init__(
        self,
        loggers: Loggers,
        folder: Path | None,
        settings: Mapping[str, Any],
        *,
        ended: bool = True,
    ) -> None:
        if loggers is None:
            loggers = ["tensorboard"] if folder is not None and is_installed("tensorboard") else []
        self.loggers = dict.fromkeys(loggers) if PartialState().is_main_process else {}
        self.folder = folder
        self.settings = plain_settings(without_paths(settings))
        self.ended = ended
        self.name = "fit" if folder is None else folder.resolve().name  # of the run, for people
        self._begun: list[tuple[str, Kind]] = []
        self._copies: TemporaryDirectory[str] | None = None

    def begin(self) -> None:
        """Begins each tracker, or goes on where the run was logged before.

        Raises:
            ValueError: one cannot begin, and why; or ``trackers.json`` is damaged.
        """
        known = self._known()
        for each in self.loggers:
            name = each if isinstance(each, str) else str(getattr(each, "name", type(each).__name__))
            if isinstance(each, str):
                kind = KINDS[each](self.name, self.settings, self.folder, known.get(each))
            else:
                kind = Given(self.name, self.settings, self.folder, tracker=each)
            if each == "tensorboard" and self.folder is not None:
                check_no_links(self.folder / "tensorboard", within=self.folder)  # names there can be guessed
            try:
                kind.begin()
            except Exception as error:  # of any kind, from another library
                advice = ""
                if isinstance(error, ImportError):
                    advice = f"; install it: pip install 'protoat[{name}]'"
                elif name in known and self.folder is not None:
                    path = self.folder / _FILE
                    advice = f"; if its run {known[name]} was deleted, remove {path}, and trackers begin new runs"
                raise UserError(f"{name} cannot begin: {in_a_line(error)[:300]}{advice}") from error
            self._begun.append((name, kind))
        self._remember(known)

    def log(self, numbers: dict[str, float], step: int | None = None) -> None:
        """Tells all trackers numbers, of an epoch (`step`, from 1) or of the whole run.

        Raises:
            DiskError: one writes into the folder of the run, and cannot.
        """
        self._each("log", lambda kind: kind.log(numbers, step))

    def keep(self, name: str, files: Sequence[Path], *, private: Collection[str] = ()) -> None:
        """Stores files with the run where a tracker has a place for them; what is no file is left out.

        Args:
            name: of what they are.
            files: see `protoat.storage.places.without_machine` for what stays here.
            private: words that a page must not hold.
        """
        present = [path for path in files if path.is_file() and not path.is_symlink()]
        if not present or all(type(kind).keep is Kind.keep for _, kind in self._begun):
            return
        self._copies = self._copies or TemporaryDirectory()  # until the end: a tracker may read it later
        copies = [Path(self._copies.name) / name / path.name for path in present]
        for path, copy in zip(present, copies, strict=True):
            write(copy, without_machine(path.name, path.read_bytes(), private))
        self._each(f"store {name}", lambda kind: kind.keep(name, copies))

    def keep_records(self) -> None:
        """Stores the records of the run's folder, where it has one."""
        if self.folder is not None:
            self.keep("records", [self.folder / name for name in _RECORDS])

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        end = error if error is not None or self.ended else KeyboardInterrupt()
        try:
            self._each("end", lambda kind: kind.finish(end))
        except DiskError:
            if error is None:  # else that is what is to be said
                raise
        finally:
            self._begun = []
            if self._copies is not None:
                self._copies.cleanup()

    def _each(self, what: str, action: Callable[[Kind], None]) -> None:
        failure: OSError | None = None
        for name, kind in list(self._begun):
            try:
                action(kind)
            except Exception as error:  # of any kind, from another library
                if kind.in_folder and isinstance(error, OSError):
                    failure = error
                else:
                    logger.warning(
                        "%s could not %s, and is left out from now on: %s", name, what, in_a_line(error)[:300]
                    )
                self._begun.remove((name, kind))
        if failure is not None:
            reason = failure.strerror or failure
            raise DiskError(f"could not write into {self.folder}: {reason}; make room and run again") from failure

    def _known(self) -> dict[str, str]:
        """The tracker's own names of the runs that the folder is logged to."""
        if self.folder is None:
            return {}
        path = self.folder / _FILE
        try:
            found = parse_json(read_record_bytes(path))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise UserError(f"{error}; without {_FILE} trackers begin new runs") from error
        plain = isinstance(found, dict) and all(isinstance(run, str) and _RUN.fullmatch(run) for run in found.values())
        if not plain:
            raise UserError(f"{path} does not name runs of trackers; remove it, and trackers begin new runs")
        return dict(found)

    def _remember(self, known: dict[str, str]) -> None:
        now = {**known, **{name: kind.known for name, kind in self._begun if kind.known is not None}}
        if self.folder is None or now == known:
            return
        with on_disk(f"write {self.folder / _FILE}"):
            write_record(self.folder / _FILE, json.dumps(now, indent=1).encode(), within=self.folder)


def plain_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings on one level, as trackers take them: numbers, flags, and all else as text.

    >>> plain_settings({"threat": {"eps": 0.3}, "modes": None, "lr": [0.1, 0.2]})
    {'threat.eps': 0.3, 'modes': 'none', 'lr': '[0.1, 0.2]'}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = prefix + printable(str(key))
        if isinstance(value, Mapping):
            found |= plain_settings(value, f"{name}.")
        elif isinstance(value, int | float):
            found[name] = value
        else:
            found[name] = "none" if value is None else printable(str(value))
    return found
