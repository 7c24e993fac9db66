"""Trackers: what each stores of a run, read back by its own reader; a resumed run goes on in the same one."""

from __future__ import annotations

import errno
import json
import os
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.tracking import GeneralTracker

import protoat as pa
from protoat.errors import DiskError, Interrupted, UserError
from protoat.training import tracker_kinds
from protoat.training import trackers as module
from protoat.training.metrics import numbers
from protoat.training.trackers import Trackers, check_loggers
from protoat.training.validation import Validation

# Each is a process of its own, as trackers hold state of the process: trains two epochs, is resumed for two more.
PROGRAM = """
import sys
from pathlib import Path
import torch
import protoat as pa
from protoat.cli.log_with import tell

def images(count):
    x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))
    names, modes = ("cat", "dog"), ("cat/a (tabby)", "cat/b", "dog/a", "dog/b")
    data = (x * 255).byte(), torch.arange(count) % 2
    return pa.ImageData(*data, names, torch.arange(count) % 2 * 2 + torch.arange(count) // 2 % 2, modes)

def run(name, epochs_before_a_stop):
    torch.manual_seed(0)
    net = pa.with_embedding(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.Linear(8, 2)))
    objective = pa.Objective(pa.PGDAT(pa.Linf(0.1), steps=1), pa.SoftTriple(2, 8, prototypes_per_class=3))
    optimizer = torch.optim.SGD(pa.parameter_groups(net, objective, lr=0.1), lr=0.1)
    loader = pa.ImageLoader(images(16), batch_size=8)

    class Stop(pa.Constant):
        def lr(self, base, update, updates, per_epoch):
            if update == epochs_before_a_stop * per_epoch and update:
                raise KeyboardInterrupt
            return base

    try:
        pa.fit(net, loader, objective, epochs=4, optimizer=optimizer, schedule=Stop(), validation=images(12),
               out="run", loggers=[name], config={"eps": 0.1, "method": {"steps": 1}})
    except KeyboardInterrupt:
        pass

run(sys.argv[1], 2)
tell([sys.argv[1]], Path("run"), "evaluation", [], {"evaluation/clean/accuracy": 0.25})
run(sys.argv[1], 99)
"""


@pytest.fixture
def proxy() -> Iterator[SimpleNamespace]:
    """Where every client that honours a proxy would go; it counts who comes."""
    server = socket.create_server(("127.0.0.1", 0))
    callers: list[Any] = []

    def accept() -> None:
        while True:
            try:
                caller, address = server.accept()
            except OSError:
                return
            callers.append(address)
            caller.close()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.getsockname()[1]}", callers=callers)
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


def trained(name: str, folder: Path, proxy: SimpleNamespace, **settings: str) -> list[dict[str, Any]]:
    """Lines of ``metrics.jsonl`` of a run that was stopped and resumed; nobody was asked on a network."""
    own = ("WANDB", "MLFLOW", "TRACKIO", "NETRC", "NO_PROXY", "no_proxy", "CI", "PYTEST")
    plain = {key: value for key, value in os.environ.items() if not key.startswith(own)}
    proxies = {key: proxy.url for each in ("http_proxy", "https_proxy", "all_proxy") for key in (each, each.upper())}
    environment = {**plain, **proxies, "HOME": str(folder), **settings}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and proxy.callers == []
    return [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]


def blocks(log: bytes) -> Iterator[bytes]:
    """Records of a log in LevelDB's format, which wandb's begins with a header of 7 bytes in."""
    place, found = 7, b""
    while place < len(log):
        if 2**15 - place % 2**15 < 7:
            place += 2**15 - place % 2**15
        size, kind = struct.unpack_from("<HB", log, place + 4)
        found += log[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield found
            found = b""


def check_values(found: dict[str, dict[int, float]], lines: list[dict[str, Any]], tabby: str = "a (tabby)") -> None:
    """What a tracker has, by name and epoch, is what the run has written."""
    for line in lines:
        epoch = line["epoch"]
        assert found["total"][epoch] == pytest.approx(line["total"])
        assert found["validation/robust"][epoch] == pytest.approx(line["validation"]["robust"])
        assert found["objective/usage/dog/2"][epoch] == pytest.approx(line["objective"]["usage"][1][2])
        modes = [found[f"validation/mode_robust/{name}"][epoch] for name in (f"cat/{tabby}", "cat/b", "dog/a", "dog/b")]
        assert sum(modes) / 4 == pytest.approx(line["validation"]["robust"])  # there are three images of each mode
    assert sorted(found["total"]) == [1, 2, 3, 4]


@pytest.mark.slow
def test_wandb_is_offline_and_goes_on(tmp_path: Path, proxy: SimpleNamespace) -> None:
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    for command in (["init", "--quiet"], ["remote", "add", "origin", "https://example.org/own"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    lines = trained("wandb", tmp_path, proxy)
    known = json.loads((tmp_path / "run/trackers.json").read_text())["wandb"]
    sessions = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert [path.name for path in sessions] == [f"run-{known}.wandb"] * 3
    found: dict[str, dict[int, float]] = {}
    config, summary, artifacts, ended, kinds = {}, {}, [], [], set()
    for path in sessions:
        for content in blocks(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            for key, value in items.items():
                if not key.startswith("_"):
                    found.setdefault(key, {})[int(items["_step"])] = json.loads(value)
            config |= {item.key: json.loads(item.value_json) for item in record.config.update}
            summary |= {item.key: json.loads(item.value_json) for item in record.summary.update}
            kinds.add(kind := record.WhichOneof("record_type"))
            assert record.run.host == "" and record.run.git.remote_url == ""
            if kind == "exit":
                ended.append(record.exit.exit_code)
            if kind == "artifact":
                artifacts.append((record.artifact.type, {each.path for each in record.artifact.manifest.contents}))
    check_values(found, lines)
    assert config["eps"] == 0.1 and config["method.steps"] == 1
    assert artifacts == [("records", {"metrics.jsonl", "best.json"})]
    assert "evaluation/clean/accuracy" not in found and summary["evaluation/clean/accuracy"] == 0.25
    assert sorted(ended) == [0, 0, 1]  # the first session was interrupted
    # Neither machine nor command, no console, and no list of packages.
    assert kinds == {"header", "run", "telemetry", "stats", "config", "summary", "history", "artifact", "exit"}
    assert not [path for path in tmp_path.glob("wandb/*/files/**/*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what MLflow is built on
@pytest.mark.parametrize("store", ["sqlite", "files"])
def test_mlflow_is_local_and_goes_on(tmp_path: Path, proxy: SimpleNamespace, store: str) -> None:
    pytest.importorskip("sqlalchemy" if store == "sqlite" else "mlflow")
    mlflow = pytest.importorskip("mlflow")
    settings = {} if store == "sqlite" else {"MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri()}
    lines = trained("mlflow", tmp_path, proxy, MLFLOW_ALLOW_FILE_STORE="true", **settings)
    uri = settings.get("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    client = mlflow.MlflowClient(uri)
    (experiment,) = [each for each in client.search_experiments() if each.name == "protoat"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == json.loads((tmp_path / "run/trackers.json").read_text())["mlflow"]
    assert run.info.run_name == "run" and run.data.params == {"eps": "0.1", "method.steps": "1"}
    history = {
        key: {each.step: each.value for each in client.get_metric_history(run.info.run_id, key)}
        for key in run.data.metrics
    }
    check_values(history, lines, "a _tabby_")
    kept = {Path(each.path).name for each in client.list_artifacts(run.info.run_id, "records")}
    assert kept == {"metrics.jsonl", "best.json"}


@pytest.mark.slow
def test_trackio_is_local_and_goes_on(tmp_path: Path, proxy: SimpleNamespace) -> None:
    pytest.importorskip("trackio")
    lines = trained("trackio", tmp_path, proxy, TRACKIO_DIR=str(tmp_path / "trackio"))
    known = json.loads((tmp_path / "run/trackers.json").read_text())["trackio"]
    (database,) = tmp_path.glob("trackio/protoat*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
        ((config,),) = connection.execute("SELECT config FROM configs").fetchall()
    found: dict[str, dict[int, float]] = {}
    for run, step, told in rows:
        assert run == known
        for key, value in json.loads(told).items():
            found.setdefault(key, {})[step] = value
    check_values(found, lines)
    assert json.loads(config)["method.steps"] == 1
    assert list(tmp_path.glob("trackio/artifacts/protoat/blobs/*/*/*"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what Aim is built on
def test_aim_is_local_and_goes_on(tmp_path: Path, proxy: SimpleNamespace) -> None:
    aim = pytest.importorskip("aim")
    from aim.sdk import index_manager

    lines = trained("aim", tmp_path, proxy)
    known = json.loads((tmp_path / "run/trackers.json").read_text())["aim"]
    repo = aim.Repo(str(tmp_path))
    index_manager.RepoIndexManager.get_index_manager(repo).index(known)  # as ``aim up`` does
    (run,) = repo.iter_runs()
    assert (run.hash, run.name, run.experiment) == (known, "run", "protoat")
    assert run["hparams"] == {"eps": 0.1, "method.steps": 1}
    found = {}
    for metric in run.metrics():
        steps, (values, *_) = metric.data.items_list()
        found[metric.name] = dict(zip(steps, values, strict=True))
    assert found.pop("evaluation/clean/accuracy") == {0: 0.25}
    check_values(found, lines)
    assert not [name for name in found if name.startswith("__")], "nothing of the machine"
    kept = {name: Path(each.uri.removeprefix("file://")) for name, each in run.artifacts.items()}
    assert {name: path.is_file() for name, path in kept.items()} == {
        "records/metrics.jsonl": True,
        "records/best.json": True,
    }


class Book(GeneralTracker):
    """Remembers what it is told."""

    name = "book"
    requires_logging_directory = False

    def __init__(self, *, fails_at: int | None = None) -> None:
        super().__init__()
        self.pages: list[Any] = []
        self.fails_at = fails_at

    @property
    def tracker(self) -> list[Any]:
        return self.pages

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.pages.append(values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        if step == self.fails_at:
            raise ConnectionError("no\nroute")
        self.pages.append((step, values))

    def finish(self) -> None:
        self.pages.append("end")


def test_a_tracker_of_the_callers_own(small: ModuleType) -> None:
    book = Book()
    result = small.train("pgd", None, epochs=2, loggers=[book])
    settings, first, second, end = book.pages
    assert settings["seed"] == 11 and settings["method settings.attack.steps"] > 0
    assert [first[0], second[0], end] == [1, 2, "end"]
    assert second[1]["total"] == result.metrics[1]["total"]


def test_one_that_fails_does_not_end_the_training(small: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    book = Book(fails_at=2)
    assert small.train("pgd", None, epochs=3, loggers=[book]).epochs == 3
    assert [page[0] for page in book.pages[1:]] == [1]
    assert "book could not log, and is left out from now on: no route" in caplog.text


def test_a_run_is_the_same_with_and_without(small: ModuleType, tmp_path: Path) -> None:
    small.train("pgd", tmp_path / "with", epochs=2, loggers=[Book()])
    small.train("pgd", tmp_path / "without", epochs=2)
    small.assert_same_outcome(tmp_path / "with", tmp_path / "without")


def test_what_is_missing_is_said_before_anything_is_written(
    small: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "is_installed", lambda package: False)
    with pytest.raises(UserError, match=r"wandb is not installed; install it: pip install 'protoat\[wandb\]'"):
        small.train("pgd", tmp_path / "run", loggers=["wandb"])
    assert not (tmp_path / "run").exists()


def test_a_folder_that_wandb_leaves_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notapackage").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not module.is_installed("notapackage")


def test_tensorboard_needs_a_folder() -> None:
    pytest.importorskip("tensorboard")
    with pytest.raises(UserError, match="pass out"):
        check_loggers(["tensorboard"], None)


@pytest.mark.parametrize("content", ['{"wandb": "../x"}', '["a"]', "{"])
def test_damaged_names_of_runs_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "trackers.json").write_text(content)
    with Trackers([Book()], tmp_path, {}) as found, pytest.raises(UserError, match="begin new runs"):
        found.begin()


def test_many_numbers_are_told_in_three() -> None:
    assert numbers({"objective": {"group_weights": [0.0, 1.0] * 200}}) == {
        "objective/group_weights/least": 0,
        "objective/group_weights/mean": 0.5,
        "objective/group_weights/greatest": 1,
    }


MODES = tuple(map(str, range(200)))


def test_numbers_of_many_modes_leave_others_as_they_are() -> None:
    found = numbers(
        {
            "total": 0.5,
            "objective": {"loss": 0.25, "usage": [[0.5, 1.0]] * 200},
            "validation": {
                "clean": 0.75,
                **{f"mode_{kind}": dict.fromkeys(MODES, 1.0) for kind in ("clean", "robust")},
            },
        }
    )
    usage = {f"objective/usage/{name}": value for name, value in (("least", 0.5), ("mean", 0.75), ("greatest", 1.0))}
    modes = {f"validation/mode_{kind}/{mode}": 1.0 for kind in ("clean", "robust") for mode in MODES}
    assert found == {"total": 0.5, "objective/loss": 0.25, "validation/clean": 0.75} | usage | modes


def test_modes_beyond_what_charts_show_are_told_apart() -> None:
    modes = {f"mode_{kind}": {str(mode): value for mode in range(300)} for kind, value in (("clean", 1), ("robust", 0))}
    found = numbers({"validation": {"clean": 0.75, **modes}})
    assert len(found) == 7 and found["validation/clean"] == 0.75
    assert found["validation/mode_clean/mean"] == 1 and found["validation/mode_robust/mean"] == 0


class Noted(tracker_kinds.Kind):
    """Remembers what it stores, and how it ends."""

    pages: list[Any] = []  # noqa: RUF012 - of all there are
    refuses = False

    def begin(self) -> None:
        if self.refuses:
            raise RuntimeError("run was deleted")

    def keep(self, name: str, files: list[Path]) -> None:
        self.pages.append((name, [path.name for path in files]))

    def finish(self, error: BaseException | None) -> None:
        self.pages.append(error)


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a tracker called wandb is told."""
    monkeypatch.setitem(tracker_kinds.KINDS, "wandb", Noted)
    monkeypatch.setattr(Noted, "pages", [])
    return Noted.pages


def test_one_is_told_what_has_ended_the_run(noted: list[Any]) -> None:
    error = FloatingPointError("no number")
    with pytest.raises(FloatingPointError), Trackers(["wandb"], None, {}) as told:
        told.begin()
        raise error
    with Trackers(["wandb"], None, {}) as told:
        told.begin()
    assert noted == [error, None]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (None, "FINISHED", 0),
        (FloatingPointError("no number"), "FAILED", 1),
        (Interrupted("saved", 15), "KILLED", 1),
        (KeyboardInterrupt(), "KILLED", 1),
    ],
)
def test_how_a_run_has_ended_is_told(
    error: BaseException | None, status: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    run = SimpleNamespace(finish=lambda **how: told.append(how))
    monkeypatch.setattr(tracker_kinds, "import_module", lambda name: SimpleNamespace(end_run=told.append))
    for kind in (tracker_kinds.MLflow, tracker_kinds.Wandb):
        kind("run", {}, None, tracker=SimpleNamespace(tracker=run, finish=lambda: told.append("done"))).finish(error)
    assert told == [status, {"exit_code": code}]


def test_numbers_of_the_whole_run_are_no_step_of_wandb() -> None:
    rows: list[Any] = []
    tracker = SimpleNamespace(
        tracker=SimpleNamespace(summary={"total": 1}), log=lambda told, step: rows.append((step, told))
    )
    kind = tracker_kinds.Wandb("run", {}, None, tracker=tracker)
    kind.log({"evaluation/clean/accuracy": 0.5}, None)
    kind.log({"total": 2}, 3)
    assert tracker.tracker.summary == {"total": 1, "evaluation/clean/accuracy": 0.5}
    assert rows == [(3, {"total": 2})]


def test_mlflow_takes_a_thousand_numbers_at_once() -> None:
    rows: list[dict[str, float]] = []
    tracker = SimpleNamespace(log=lambda told, step: rows.append(told))
    tracker_kinds.MLflow("run", {}, None, tracker=tracker).log({f"a/{i}": i for i in range(1001)}, 1)
    assert [len(row) for row in rows] == [1000, 1] and rows[1] == {"a/1000": 1000}


def test_records_are_those_of_the_training(tmp_path: Path, noted: list[Any]) -> None:
    for name in ("recipe.yaml", "run.json", "metrics.jsonl", "best.json", "evaluation.json", "audit.json"):
        (tmp_path / name).write_text("{}")
    with Trackers(["wandb"], tmp_path, {}) as told:
        told.begin()
        told.keep_records()
    assert noted == [("records", ["recipe.yaml", "metrics.jsonl", "best.json"]), None]


def test_nothing_is_stored_where_there_are_no_files(tmp_path: Path, noted: list[Any]) -> None:
    with Trackers(["wandb"], tmp_path, {}) as told:
        told.begin()
        told.keep("evaluation", [tmp_path / "evaluation.json"])
    assert noted == [None]


@pytest.mark.parametrize("own", [{}, {"WANDB_HOST": "mine", "WANDB_CONSOLE": "wrap", "WANDB_DISABLE_GIT": "false"}])
def test_wandb_collects_nothing_unless_it_is_told_to(own: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"WANDB_MODE": "offline", **own}
    monkeypatch.setattr(os, "environ", environment)
    begun = SimpleNamespace(start=lambda: None, tracker=SimpleNamespace(id="a", url="b"))
    monkeypatch.setattr(tracker_kinds.tracking, "WandBTracker", lambda *_, **__: begun)
    tracker_kinds.Wandb("run", {}, None, known="a").begin()
    off = {"WANDB_HOST": "", "WANDB_CONSOLE": "off", "WANDB_DISABLE_GIT": "true", "WANDB_DISABLE_CODE": "true"}
    off |= {"WANDB_X_DISABLE_META": "true", "WANDB_X_SAVE_REQUIREMENTS": "false"}
    assert {key: environment.get(key) for key in off} == off | own


def test_a_run_that_was_deleted_ends_with_what_to_do(
    tmp_path: Path, noted: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Noted, "refuses", True)
    with Trackers(["wandb"], tmp_path, {}) as told, pytest.raises(UserError, match=r"begin: run was deleted$"):
        told.begin()
    path = tmp_path / "trackers.json"
    path.write_text('{"wandb": "run-7"}')
    with Trackers(["wandb"], tmp_path, {}) as told, pytest.raises(UserError) as error:
        told.begin()
    assert str(error.value).endswith(f"if its run run-7 was deleted, remove {path}, and trackers begin new runs")


def test_mlflow_that_cannot_be_reached_has_not_lost_a_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusal(Exception):  # noqa: N818 - as MLflow's
        def __init__(self, error_code: str) -> None:
            super().__init__(f"no answer: {error_code}")
            self.error_code = error_code

    def get_run(_: str) -> None:
        raise Refusal(code)

    exceptions = SimpleNamespace(MlflowException=Refusal)
    uri = {"get_tracking_uri": lambda: "here", "set_tag": lambda *_: None}
    fake = SimpleNamespace(exceptions=exceptions, get_run=get_run, **uri)
    monkeypatch.setattr(tracker_kinds, "import_module", lambda name: fake)
    begun: list[Any] = []
    run = SimpleNamespace(info=SimpleNamespace(run_id="new"))
    tracker = SimpleNamespace(start=lambda: None, store_init_configuration=begun.append, tracker=run)
    monkeypatch.setattr(tracker_kinds.tracking, "MLflowTracker", lambda *_, **__: tracker)
    code = "INTERNAL_ERROR"
    with pytest.raises(Refusal):
        tracker_kinds.MLflow("run", {}, None, known="old").begin()
    assert begun == []
    code = "RESOURCE_DOES_NOT_EXIST"
    kind = tracker_kinds.MLflow("run", {}, None, known="old")
    kind.begin()
    assert kind.known == "new" and "has no run old, so a new one begins" in caplog.text


def test_a_full_disk_ends_the_training_as_of_any_file_of_the_run(
    small: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    book = Book()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(tracker_kinds.tracking.TensorBoardTracker, "log", full)
        with pytest.raises(DiskError, match=r"could not write into .*No space left on device; make room"):
            small.train("pgd", tmp_path / "run", epochs=2, loggers=["tensorboard", book])
    assert [page[0] for page in book.pages[1:-1]] == [1] and book.pages[-1] == "end"
    small.train("pgd", tmp_path / "run", epochs=2, loggers=["tensorboard"])
    small.train("pgd", tmp_path / "whole", epochs=2)
    small.assert_same_outcome(tmp_path / "run", tmp_path / "whole")


def test_a_full_disk_at_the_end_does_not_hide_what_went_wrong(
    tmp_path: Path, noted: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Noted, "in_folder", True)
    monkeypatch.setattr(Noted, "finish", full)
    with pytest.raises(DiskError), Trackers(["wandb"], tmp_path, {}) as told:
        told.begin()
    with pytest.raises(FloatingPointError), Trackers(["wandb"], tmp_path, {}) as told:
        told.begin()
        raise FloatingPointError


def test_groups_of_held_out_images_are_called_what_they_are() -> None:
    x, y = torch.rand(8, 1, 4, 4), torch.arange(8) % 2
    names, modes = ("cat", "dog"), ("cat/a", "cat/b", "dog/a", "dog/b")
    pixels = (x * 255).byte()
    forms = {
        "class_clean": [[(x, y)], pa.ImageData(pixels, y, names)],
        "mode_clean": [pa.ImageData(pixels, y, names, y * 2 + torch.arange(8) // 2 % 2, modes)],
    }
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    for group, held_out in forms.items():
        for each in held_out:
            validation = Validation(each, None, device=torch.device("cpu"))
            validation(model)
            assert list(validation.by_mode) == [group]
