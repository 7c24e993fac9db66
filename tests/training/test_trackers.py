"""Trackers: what each stores of a run, read back by its own reader; a resumed run goes on in the same one."""

from __future__ import annotations

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
from accelerate.tracking import GeneralTracker

from protoat.errors import UserError
from protoat.training import trackers as module
from protoat.training.tracked_numbers import numbers
from protoat.training.trackers import Trackers, check_loggers

# Each is a process of its own, as trackers hold state of the process: trains two epochs, is resumed for two more.
PROGRAM = """
import sys
import torch
import protoat as pa

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

for stop in (2, 99):
    run(sys.argv[1], stop)
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

    lines = trained("wandb", tmp_path, proxy)
    known = json.loads((tmp_path / "run/trackers.json").read_text())["wandb"]
    sessions = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert [path.name for path in sessions] == [f"run-{known}.wandb"] * 2
    found: dict[str, dict[int, float]] = {}
    config, artifacts = {}, []
    for path in sessions:
        for content in blocks(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            for key, value in items.items():
                if not key.startswith("_"):
                    found.setdefault(key, {})[int(items["_step"])] = json.loads(value)
            config |= {item.key: json.loads(item.value_json) for item in record.config.update}
            if record.WhichOneof("record_type") == "artifact":
                artifacts.append((record.artifact.type, {each.path for each in record.artifact.manifest.contents}))
    check_values(found, lines)
    assert config["eps"] == 0.1 and config["method.steps"] == 1
    assert artifacts == [("records", {"metrics.jsonl", "best.json"})]


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
