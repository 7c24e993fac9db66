"""What a task needs is done once, whoever asks, and whatever ended an earlier attempt."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from protoat.attacks import AutoAttack
from protoat.data import Digits
from protoat.evaluation.masking_audit.check import NO_RECORD
from protoat.evaluation.record import Evaluation
from protoat.paper import find_record, laboratory
from protoat.paper.job import Job, Task
from protoat.paper.laboratory import finished, run_task
from protoat.runs.fingerprint import fingerprint_of_folder
from protoat.runs.measure import measure
from protoat.runs.named_attacks import named_attacks
from protoat.runs.run import Run
from protoat.runs.train import train
from tests.processes import begin
from tests.whole import checked, edit

SHORT = {"epochs": 1, "validation_size": 0, "method": {"init_args": {"steps": 1}}, "schedule": None}
OURS = Job("ours", ("digits",), SHORT)
TWO = Job("two", ("digits-2",), SHORT)
TASK = Task(OURS, ("clean", "pgd2"), 40)


def state(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def counts(record: Evaluation) -> dict[str, list[bool]]:
    return {name: found.correct_mask.tolist() for name, found in record.attacks.items()}


def nothing_may_happen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train", "measure", "audit_subject"):
        monkeypatch.delattr(laboratory, name, raising=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with both runs, measured."""
    store = tmp_path_factory.mktemp("store")
    run_task(TASK, store)
    run_task(replace(TASK, job=TWO), store)
    return store


@pytest.fixture
def own(store: Path, tmp_path: Path) -> Path:
    """A copy to work on."""
    return Path(shutil.copytree(store, tmp_path / "own"))


def test_what_is_finished_is_not_done_again(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(own)
    nothing_may_happen(monkeypatch)
    run = run_task(TASK, own)
    assert run.evaluation is not None
    assert run.evaluation.attacks.keys() == {"clean", "pgd2"}
    assert run.path == OURS.folder(own)
    assert state(own) == before


def test_a_run_is_what_train_and_measure_make(store: Path, tmp_path: Path) -> None:
    train(OURS.recipe, tmp_path / "by-hand", progress=False)
    measure(Run(tmp_path / "by-hand").subject(), ["clean", "pgd2"], limit=40)
    ours = OURS.folder(store)
    assert (ours / "last.safetensors").read_bytes() == (tmp_path / "by-hand/last.safetensors").read_bytes()
    stored, by_hand = Run(ours).evaluation, Run(tmp_path / "by-hand").evaluation
    assert stored is not None and by_hand is not None
    assert counts(stored) == counts(by_hand)
    # And what was done by hand counts as done.
    assert finished(TASK, tmp_path) is not None


def test_a_kill_before_the_job_is_written_is_made_good(own: Path) -> None:
    folder = OURS.folder(own)
    written = (folder / "job.json").read_bytes()
    (folder / "job.json").unlink()
    (folder / "evaluation.json").unlink()
    run_task(TASK, own)
    assert (folder / "job.json").read_bytes() == written


def test_only_what_is_missing_is_measured(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(laboratory, "measure", lambda subject, names, **more: asked.append(names))
    with pytest.raises(AssertionError, match="does not hold what was measured"):
        run_task(replace(TASK, attacks=("pgd2", "fgsm", "clean", "pgd3")), own)
    assert asked == [["fgsm", "pgd3"]]


def test_what_was_measured_in_bfloat16_is_measured_anew(own: Path) -> None:
    measure(Run(OURS.folder(own)).subject(), ["pgd3"], limit=40, attack_precision="bf16")
    task = replace(TASK, attacks=("pgd3",))
    assert finished(task, own) is None
    evaluation = run_task(task, own).evaluation
    assert evaluation is not None and "precision" not in evaluation["pgd3"].parameters


@pytest.mark.parametrize(
    ("job", "attacks", "holds"),
    [
        (OURS, ("aa",), {"standard"}),
        (OURS, ("aa@0.05",), {"standard@0.05"}),
        (TWO, ("aa",), {"aa-k2"}),
        (OURS, ("adaptive5",), {f"adaptive-{kind}5" for kind in ("combined", "leave", "approach", "displace")}),
        (OURS, ("adaptive-leave5",), {"adaptive-leave5"}),
        (OURS, ("transfer:runs/x",), {"transfer:runs/x"}),
        (OURS, ("{class_path: PGD, init_args: {steps: 3}}",), {"PGD"}),
    ],
)
def test_names_that_are_recorded_as_others(own: Path, job: Job, attacks: tuple[str, ...], holds: set[str]) -> None:
    task = Task(job, attacks, 40)
    assert finished(task, own) is None
    folder = job.folder(own)
    record = json.loads((folder / "evaluation.json").read_text())
    subject = Run(folder).subject()
    meant = {} if "transfer" in attacks[0] else named_attacks(attacks, subject)
    for name in holds:
        assert finished(task, own) is None
        attack = meant.get(name)
        if isinstance(attack, AutoAttack):
            attack.num_classes = subject.data.num_classes
        parameters = {} if attack is None else json.loads(json.dumps(attack.parameters()))
        record["attacks"][name] = {**record["attacks"]["pgd2"], "parameters": parameters}
        edit(folder / "evaluation.json", json.dumps(record))
    assert finished(task, own) is not None


def test_an_attack_that_needs_prototypes_is_refused_without(own: Path) -> None:
    plain = Task(Job("plain", ("digits",), {**SHORT, "regularizer": None}), ("adaptive",), 20)
    with pytest.raises(ValueError, match="needs prototypes"):
        run_task(plain, own)


def test_records_on_other_numbers_of_images_live_side_by_side(own: Path) -> None:
    assert finished(replace(TASK, images=30), own) is not None
    assert finished(replace(TASK, images=50), own) is None
    few, many = Task(OURS, ("fgsm",), 20), replace(TASK, images=60)
    for task in (few, many):
        run_task(task, own)
    totals = {}
    for task in (TASK, few, many, few):
        run = run_task(task, own)
        assert run.evaluation is not None
        totals[task] = run.evaluation.subject.images
    assert totals == {TASK: 40, few: 20, many: 60}
    assert len(list(OURS.folder(own).glob("evaluation*.json"))) == 3  # on 20, 40 and 60


def test_a_record_that_was_put_aside_is_continued(own: Path) -> None:
    run_task(Task(OURS, ("fgsm",), 20), own)
    run = run_task(Task(OURS, ("fgsm",), 40), own)
    assert run.evaluation is not None
    assert run.evaluation.attacks.keys() == {"clean", "pgd2", "fgsm"}


def test_all_images_are_all_there_are(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = len(Digits().load("test"))
    for images in (None, there + 1, there):
        run = run_task(Task(OURS, ("clean",), images), own)
        assert run.evaluation is not None
        assert run.evaluation.subject.images == there
        nothing_may_happen(monkeypatch)


OTHER: list[dict[str, Any]] = [
    {"sha256": "0" * 64},
    {"threat": {"norm": "linf", "eps": 0.3}},
    {"data_sha256": "0" * 64},
    {"head": "prototypes"},
    {"weights": "best.safetensors"},
]


@pytest.mark.parametrize("change", OTHER)
def test_an_evaluation_of_another_subject_does_not_count(own: Path, change: dict[str, Any]) -> None:
    path = OURS.folder(own) / "evaluation.json"
    text = path.read_text()
    record = json.loads(text)
    record["subject"] |= change
    edit(path, json.dumps(record))
    assert finished(TASK, own) is None
    edit(path, text)
    assert finished(TASK, own) is not None


def test_an_attack_that_its_name_no_longer_stands_for_is_measured_again(own: Path) -> None:
    path = OURS.folder(own) / "evaluation.json"
    record = json.loads(path.read_text())
    record["attacks"]["pgd2"]["parameters"]["steps"] = 1
    edit(path, json.dumps(record))
    assert finished(TASK, own) is None
    run = run_task(TASK, own)
    assert run.evaluation is not None
    assert run.evaluation["pgd2"].parameters["steps"] == 2
    del run.evaluation["pgd2"].parameters["random_start"]  # as if a later version had brought it
    edit(path, json.dumps(run.evaluation.to_json()))
    assert finished(TASK, own) is not None


def test_the_best_weights_count_where_there_are_such(own: Path) -> None:
    folder = OURS.folder(own)
    shutil.copy(folder / "last.safetensors", folder / "best.safetensors")
    assert finished(TASK, own) is None
    run = run_task(TASK, own)
    assert run.evaluation is not None
    assert run.evaluation.subject.weights == "best.safetensors"
    # What is measured of the last ones lives beside it, and fills no cell.
    measure(Run(folder).subject("last"), ["clean", "pgd2", "fgsm"], limit=40)
    assert json.loads((folder / "evaluation.json").read_text())["subject"]["weights"] == "last.safetensors"
    run = run_task(TASK, own)
    assert run.evaluation is not None
    assert run.evaluation.subject.weights == "best.safetensors"
    assert finished(replace(TASK, attacks=("fgsm",)), own) is None
    for name in ("best.safetensors", "last.safetensors"):
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    edit(folder / "best.json", '{"epoch": 1, "images": 50, "clean": 0.5}')
    assert finished(TASK, own) is not None
    assert finished(replace(TASK, attacks=("fgsm",)), own) is None


def test_records_without_weights_are_enough_and_are_never_touched(own: Path) -> None:
    for path in [*own.rglob("*.safetensors"), *own.rglob("job.json")]:
        path.unlink()
    for folder in own.rglob("checkpoints"):
        shutil.rmtree(folder)
    folder = OURS.folder(own).rename(own / "moved")
    before = state(folder)
    run = finished(TASK, own)
    assert run is not None
    assert run.path == folder
    with pytest.raises(ValueError, match="is a record without weights"):
        run_task(replace(TASK, attacks=("fgsm",)), own)
    assert state(folder) == before


CHECKED = Task(OURS, ("clean",), 40, audit=True, checks=("A1", "C1"))


def audited(folder: Path, **changes: Any) -> None:
    """Writes an audit of two checks."""
    subject = json.loads((folder / "evaluation.json").read_text())["subject"]
    del subject["images"]
    audit = {
        "threat": subject.pop("threat"),
        "subject": subject | changes.pop("subject", {}),
        "images": 40,
        "test_images": 500,
        "checks": [checked(number, "pass", reason=".") for number in ("A1", "C1")],
    }
    edit(folder / "audit.json", json.dumps(audit | changes))


NOT_RUN = [checked("A1", "pass", reason="."), checked("C1", "incomplete", reason=NO_RECORD)]
ANOTHER: list[dict[str, Any]] = [
    {"images": 39},
    {"threat": {"norm": "linf", "eps": 0.3}},
    {"checks": NOT_RUN},
    {"checks": NOT_RUN[:1]},
    *({"subject": change} for change in OTHER if "threat" not in change),
]


@pytest.mark.parametrize("changes", ANOTHER)
def test_an_audit_of_anything_else_does_not_count(own: Path, changes: dict[str, Any]) -> None:
    audited(OURS.folder(own))
    assert finished(CHECKED, own) is not None
    audited(OURS.folder(own), **changes)
    assert finished(CHECKED, own) is None


def test_an_audit_before_any_evaluation_is_all_there_is(own: Path) -> None:
    folder = OURS.folder(own)
    audited(folder, checks=NOT_RUN)
    kept = (folder / "evaluation.json").rename(folder / "kept")
    assert finished(replace(CHECKED, attacks=()), own) is not None
    kept.rename(folder / "evaluation.json")
    assert finished(replace(CHECKED, attacks=()), own) is None
    for path in [*folder.glob("*.safetensors"), folder / "checkpoints"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assert finished(CHECKED, own) is not None  # without weights it cannot be made again
    audited(folder, subject={"sha256": "0" * 64})
    assert finished(CHECKED, own) is None


def test_an_audit_is_made_once(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = replace(TASK, audit=True, checks=CHECKED.checks)
    for module in (laboratory, find_record):
        monkeypatch.setattr(module, "AUDITED", 10)
    assert finished(task, own) is None
    run_task(task, own)
    nothing_may_happen(monkeypatch)
    run_task(task, own)
    audit = json.loads((OURS.folder(own) / "audit.json").read_text())
    assert audit["images"] == 10


def test_a_start_is_done_first_and_known_afterwards(tmp_path: Path) -> None:
    acl = Job("acl", ("digits-acl",), {key: SHORT[key] for key in ("epochs", "method", "schedule")})
    job = Job("ours-acl", ("digits",), SHORT, acl)
    run = run_task(Task(job, ("clean",), 20), tmp_path)
    start = finished(Task(acl), tmp_path)
    assert start is not None
    assert run.choices["initialise"]["run"] == str(start.path)
    assert json.loads((run.path / "job.json").read_text()) == {
        "name": "ours-acl",
        "args": OURS.arguments,
        "identity": job.identity,
        "start": acl.identity,
    }
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert fingerprint_of_folder(moved / run.path.name) == job.identity
    assert finished(Task(job, ("clean",), 20), moved) is not None


def test_modes_are_found_in_the_run_that_comes_first(tmp_path: Path) -> None:
    plain = Job("plain", ("digits-2",), {**SHORT, "regularizer": None})
    modes = {"class_path": "DiscoveredModes", "init_args": {"clusters": 4}}
    job = Job("found", ("digits-2",), {**SHORT, "regularizer": None, "modes": modes}, plain, takes="embeddings")
    store = tmp_path / "store"
    run = run_task(Task(job, ("clean",), 20), store)
    first = finished(Task(plain), store)
    assert first is not None
    assert run.choices["modes"]["init_args"]["encoder"] == str(first.path)
    assert run.choices["modes"]["init_args"]["encoder_sha256"] == first.weights().sha256
    moved = store.rename(tmp_path / "moved")
    shutil.rmtree(moved / first.path.name)
    assert fingerprint_of_folder(moved / run.path.name) == job.identity
    assert finished(Task(job, ("clean",), 20), moved) is not None


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the optimizer cannot be built"):
        run_task(Task(Job("bad", ("digits",), {"optimizer": {"init_args": {"lr": -1.0}}})), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]


WORK = """
import json
import sys
from pathlib import Path
from protoat.paper.job import Job, Task
from protoat.paper.laboratory import run_task
run_task(Task(Job("one", ("digits",), json.loads(sys.argv[2])), ("clean", "pgd2"), 400), Path(sys.argv[1]))
"""
TENS = {"epochs": 6, "validation_size": 50, "schedule": None}


def start(store: Path, log: Path) -> BaseProcess:
    program = store.with_name("work.py")
    program.write_text(WORK)
    return begin(program, store, json.dumps(TENS), log=log)


@pytest.mark.slow
def test_of_two_processes_one_does_it(tmp_path: Path) -> None:
    logs = [tmp_path / f"{number}.log" for number in range(2)]
    both = [start(tmp_path / "store", log) for log in logs]
    for process in both:
        process.join(600)
    assert [process.exitcode for process in both] == [0, 0], [log.read_text() for log in logs]
    (folder,) = tmp_path.glob("store/one-*")
    assert len(json.loads((folder / "run.json").read_text())["sessions"]) == 1


@pytest.mark.slow
def test_what_was_killed_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    task = Task(Job("one", ("digits",), TENS), ("clean", "pgd2"), 400)
    whole = run_task(task, tmp_path / "whole")
    for reached in ("metrics.jsonl", "last.safetensors"):  # in the middle of training, then while it measures
        process = start(tmp_path / "killed", tmp_path / "log")
        while not list((tmp_path / "killed").glob(f"one-*/{reached}")) and process.is_alive():
            time.sleep(0.02)
        process.kill()
        process.join()
    assert finished(task, tmp_path / "killed") is None
    resumed = run_task(task, tmp_path / "killed")
    assert whole.evaluation is not None
    assert resumed.evaluation is not None
    assert counts(resumed.evaluation) == counts(whole.evaluation)
    assert (resumed.path / "best.safetensors").read_bytes() == (whole.path / "best.safetensors").read_bytes()
    assert [line.epoch for line in resumed.metrics] == [1, 2, 3, 4, 5, 6]
