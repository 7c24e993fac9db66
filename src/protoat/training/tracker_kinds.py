"""Trackers: how each begins a run, goes on with one, and takes files.

They are Accelerate's trackers. Nothing is sent to a network but where the user's own settings of the tracker say so.
"""

from __future__ import annotations

import io
import logging
import netrc
import os
import re
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import Any, ClassVar
from urllib.parse import urlsplit

from accelerate import tracking

logger = logging.getLogger(__name__)

_PROJECT = "protoat"
_MLFLOW_MOST = 1000  # numbers that MLflow takes at once


def is_installed(package: str) -> bool:
    """Whether a package can be imported; a folder of that name, such as wandb makes for its files, is none."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


@dataclass
class Kind:
    """A tracker of one run.

    Attributes:
        name: of the run, for people.
        settings: of the run, on one level.
        folder: of the run, or None.
        known: the tracker's own name of the run where it goes on, else None.
        tracker: Accelerate's, once it has begun.
        in_folder: whether its files are those of the run's folder, so that a full disk ends the training.
    """

    name: str
    settings: dict[str, Any]
    folder: Path | None
    known: str | None = None
    tracker: Any = None
    in_folder: ClassVar[bool] = False

    def begin(self) -> None:
        """Begins the run, or goes on with the one that is `known`, which is set."""
        raise NotImplementedError

    def log(self, numbers: dict[str, float], step: int | None) -> None:
        """Adds numbers, of an epoch, or of the whole run where `step` is None."""
        self.tracker.log(numbers, step=step)

    def keep(self, name: str, files: list[Path]) -> None:
        """Stores files with the run; a tracker without a place for them leaves them."""

    def finish(self, error: BaseException | None) -> None:
        """Ends the session, which `error` has ended if it is not None."""
        self.tracker.finish()


class TensorBoard(Kind):
    """Writes ``tensorboard/`` in the folder of the run from the first epoch on."""

    in_folder = True

    def begin(self) -> None:
        pass

    def log(self, numbers: dict[str, float], step: int | None) -> None:
        if self.tracker is None:
            assert self.folder is not None
            # What an interrupted run wrote after its last checkpoint is written again.
            self.tracker = tracking.TensorBoardTracker("tensorboard", str(self.folder), purge_step=step)
            self.tracker.start()
            if step == 1:
                lines = [f"    {key}: {value}" for key, value in self.settings.items()]
                self.tracker.log({"settings": "\n".join(lines)}, step=0)
        super().log(numbers, step)

    def finish(self, error: BaseException | None) -> None:
        if self.tracker is not None:
            super().finish(error)


class Wandb(Kind):
    """A run of project ``WANDB_PROJECT``, else protoat: offline, unless `wandb` is logged in or ``WANDB_MODE`` set.

    What it would collect of machine, command, packages, console and git stays here, unless its variables say otherwise.
    """

    def begin(self) -> None:
        _prefer(WANDB_SILENT="true", WANDB_ERROR_REPORTING="false", WANDB_CONSOLE="off")
        _prefer(WANDB_HOST="", WANDB_DISABLE_GIT="true", WANDB_DISABLE_CODE="true")
        _prefer(WANDB_X_DISABLE_META="true", WANDB_X_SAVE_REQUIREMENTS="false")
        known, self.known = self.known, self.known or token_hex(4)
        offline = None if "WANDB_MODE" in os.environ or _is_logged_in() else "offline"
        project = os.environ.get("WANDB_PROJECT", _PROJECT)
        self.tracker = tracking.WandBTracker(project, id=self.known, name=self.name, resume="allow", mode=offline)
        self.tracker.start()
        if known is None:
            self.tracker.store_init_configuration(self.settings)
        run = self.tracker.tracker
        logger.info("wandb: run %s, %s", run.id, run.url or f"offline in {Path(run.dir).parent}; wandb sync sends it")

    def log(self, numbers: dict[str, float], step: int | None) -> None:
        if step is None:  # a row of the history would take the step of the next epoch, which wandb then drops
            self.tracker.tracker.summary.update(numbers)
        else:
            super().log(numbers, step)

    def keep(self, name: str, files: list[Path]) -> None:
        artifact = import_module("wandb").Artifact(f"{name}-{self.known}", type=name)
        for path in files:
            artifact.add_file(str(path))
        self.tracker.tracker.log_artifact(artifact)

    def finish(self, error: BaseException | None) -> None:
        self.tracker.tracker.finish(exit_code=0 if error is None else 1)  # Accelerate's cannot say so


class MLflow(Kind):
    """A run of ``MLFLOW_EXPERIMENT_NAME``, else protoat, in ``MLFLOW_TRACKING_URI``, else in ``mlflow.db`` here."""

    def begin(self) -> None:
        _prefer(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_LOGGING_LEVEL="WARNING")
        mlflow = import_module("mlflow")
        if self.known is not None and not self._is_there(mlflow):
            logger.warning(
                "mlflow: %s has no run %s, so a new one begins; MLFLOW_TRACKING_URI says where runs are",
                mlflow.get_tracking_uri(),
                self.known,
            )
            self.known = None
        known = self.known
        self.tracker = tracking.MLflowTracker(_PROJECT, run_id=known, run_name=self.name)
        self.tracker.start()
        self.known = self.tracker.tracker.info.run_id
        mlflow.set_tag("mlflow.source.name", _PROJECT)  # it would note the path of the program
        if known is None:
            self.tracker.store_init_configuration({_mlflow_name(key): value for key, value in self.settings.items()})
        logger.info("mlflow: run %s, %s", self.known, mlflow.get_tracking_uri())

    def _is_there(self, mlflow: Any) -> bool:
        try:
            mlflow.get_run(self.known)
        except mlflow.exceptions.MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise  # such as a server that cannot be reached
        return True

    def log(self, numbers: dict[str, float], step: int | None) -> None:
        named = [(_mlflow_name(key), value) for key, value in numbers.items()]
        for start in range(0, len(named), _MLFLOW_MOST):
            super().log(dict(named[start : start + _MLFLOW_MOST]), step)

    def keep(self, name: str, files: list[Path]) -> None:
        for path in files:
            self.tracker.log_artifact(str(path), artifact_path=name)

    def finish(self, error: BaseException | None) -> None:
        stopped = isinstance(error, KeyboardInterrupt)  # as is `Interrupted`
        import_module("mlflow").end_run("FINISHED" if error is None else "KILLED" if stopped else "FAILED")


class Trackio(Kind):
    """A run of ``TRACKIO_PROJECT``, else protoat, in ``TRACKIO_DIR``; in a Space where ``TRACKIO_SPACE_ID`` says so."""

    def begin(self) -> None:
        project = os.environ.get("TRACKIO_PROJECT", _PROJECT)
        if self.known is None:  # a run goes on by its name
            self.known = re.sub(r"[^\w.-]", "_", self.name)[:200] + f"-{token_hex(3)}"
        with redirect_stdout(io.StringIO()):
            # Accelerate would tell the settings too late: they go with the first numbers.
            self.tracker = tracking.TrackioTracker(
                project, name=self.known, resume="allow", embed=False, config=self.settings
            )
            self.tracker.start()
        logger.info("trackio: run %s of project %s; trackio show opens it", self.known, project)

    def keep(self, name: str, files: list[Path]) -> None:
        artifact = import_module("trackio").Artifact(f"{name}-{self.known}", type=name)
        for path in files:
            artifact.add_file(str(path))
        with redirect_stdout(io.StringIO()):
            self.tracker.tracker.log_artifact(artifact)

    def finish(self, error: BaseException | None) -> None:
        with redirect_stdout(io.StringIO()):
            import_module("trackio").finish()  # Accelerate's would leave it to be ended again, loudly, at exit


class Aim(Kind):
    """A run of experiment protoat in the nearest ``.aim`` from here upwards, else in a new one here."""

    def begin(self) -> None:
        known = self.known
        self.tracker = tracking.AimTracker(
            self.name,
            None,
            run_hash=known,
            experiment=_PROJECT,
            system_tracking_interval=None,
            capture_terminal_logs=False,
        )
        self.tracker.start()
        run = self.tracker.tracker
        self.known = run.hash
        if known is None:
            self.tracker.store_init_configuration(self.settings)
            run.set_artifacts_uri((Path(run.repo.path) / "artifacts").as_uri())
        logger.info("aim: run %s in %s; aim up shows it", run.hash, run.repo.path)

    def keep(self, name: str, files: list[Path]) -> None:
        for path in files:
            self.tracker.tracker.log_artifact(str(path), f"{name}/{path.name}", block=True)


class Given(Kind):
    """A tracker of the caller's own, an Accelerate `GeneralTracker` that has not begun."""

    def begin(self) -> None:
        self.tracker.start()
        self.tracker.store_init_configuration(self.settings)


KINDS: dict[str, type[Kind]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": MLflow,
    "trackio": Trackio,
    "aim": Aim,
}


def _prefer(**values: str) -> None:
    """Settings of a tracker in the environment, where the user has none."""
    for name, value in values.items():
        os.environ.setdefault(name, value)


def _is_logged_in() -> bool:
    """Whether the user has given wandb a key: by ``wandb login``, which writes it into netrc, or in the environment."""
    if {"WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"} & os.environ.keys():
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        with suppress(OSError, netrc.NetrcParseError):
            if path and netrc.netrc(Path(path).expanduser()).authenticators(host):
                return True
    return False


def _mlflow_name(name: str) -> str:
    """A name that MLflow takes: word characters, blanks and ``/.-:``, and no path that could be said in other words.

    >>> _mlflow_name("validation/mode_robust/cat/(unknown)")
    'validation/mode_robust/cat/_unknown_'
    """
    plain = re.sub(r"[^/\w.\- :]", "_", name)
    return "/".join("_" if part.strip(".") == "" else part for part in plain.split("/"))
