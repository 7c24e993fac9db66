"""Run folders: whose they are, and what is read from them."""

from __future__ import annotations

import json
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from protoat.runs import store
from protoat.runs.records import Records
from protoat.runs.run import Run, list_runs
from protoat.runs.store import check_free, claim, environment, write
from protoat.storage.files import Folder
from protoat.training import DiskError
from tests.whole import edit, epochs

TEXT = "data: {class_path: protoat.data.Digits}\nseed: 0\n"


def test_a_claimed_folder_takes_the_same_recipe_only(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    claim(folder, TEXT, {"num_classes": 2}, {"started": "a"})
    claim(folder, TEXT, {"num_classes": 2}, {"started": "b"})
    assert [session["started"] for session in Run(folder).facts["sessions"]] == ["a", "b"]
    with pytest.raises(ValueError, match="holds another recipe \\(seed 1, there 0\\)"):
        claim(folder, TEXT.replace("seed: 0", "seed: 1"), {}, {"started": "c"})
    assert len(Run(folder).facts["sessions"]) == 2


def test_a_run_goes_on_with_the_data_it_began_with(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    claim(folder, TEXT, {"num_classes": 2}, {"started": "a"})  # by a version that kept no digest
    claim(folder, TEXT, {"num_classes": 2, "data_sha256": ["a"]}, {"started": "b"})
    claim(folder, TEXT, {"num_classes": 2, "data_sha256": ["a"]}, {"started": "c"})
    with pytest.raises(ValueError, match=r"the data of .* has changed since \(as many images, but others\)"):
        claim(folder, TEXT, {"num_classes": 2, "data_sha256": ["b"]}, {"started": "d"})


def test_an_evaluation_of_replaced_weights_is_outdated(tmp_path: Path) -> None:
    claim(tmp_path / "run", TEXT, {}, {"started": "a"})
    weights = tmp_path / "run" / "best.safetensors"
    weights.write_bytes(b"first")
    subject = {"weights": weights.name, "sha256": sha256(b"first").hexdigest(), "data": "Digits", "images": 1}
    (tmp_path / "run" / "evaluation.json").write_text(json.dumps({"subject": subject, "attacks": {}}))
    assert not Run(tmp_path / "run").outdated
    weights.write_bytes(b"second")
    assert Run(tmp_path / "run").outdated


def test_a_record_without_weights_is_complete_and_current(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    claim(folder, f"{TEXT}epochs: 2\n", {}, {})
    (folder / "metrics.jsonl").write_text(epochs(1))
    assert not Run(folder).complete
    (folder / "metrics.jsonl").write_text(epochs(1, 2))
    assert Run(folder).complete  # pre-training is not measured
    (folder / "checkpoints").mkdir()
    assert not Run(folder).complete  # it was killed before the weights were written
    (folder / "checkpoints").rmdir()
    subject = {"weights": "best.safetensors", "sha256": "0" * 64, "data": "Digits", "images": 1}
    (folder / "evaluation.json").write_text(json.dumps({"subject": subject, "attacks": {}}))
    run = Run(folder)
    assert run.is_record
    assert (run.complete, run.outdated) == (True, False)
    (folder / "last.safetensors").write_bytes(b"")
    run = Run(folder)
    assert not run.is_record
    assert run.outdated


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    check_free(tmp_path, TEXT)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="not empty and holds no run"):
        check_free(tmp_path, TEXT)
    with pytest.raises(ValueError, match="not empty and holds no run"):
        check_free(tmp_path / "thesis.tex", TEXT)


def test_runs_are_found_below_a_folder(tmp_path: Path) -> None:
    for name in ("b", "a/deep"):
        claim(tmp_path / name, TEXT, {}, {})
    assert [run.path for run in list_runs(tmp_path)] == [tmp_path / "a/deep", tmp_path / "b"]
    with pytest.raises(ValueError, match=r"did you mean .*a/deep"):
        Run(tmp_path)
    with pytest.raises(ValueError, match="is not a run folder: there is no such folder"):
        Run(tmp_path / "nowhere")


def test_weights_without_a_recipe_are_named_with_what_measures_them(tmp_path: Path) -> None:
    (tmp_path / "last.safetensors").touch()
    with pytest.raises(ValueError, match=r"no recipe\.yaml; write .*--model .* --weights .*last\.safetensors$"):
        Run(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("recipe.yaml", "data: [1", r"recipe\.yaml is damaged"),
        ("recipe.yaml", "a word", "recipe.yaml is damaged: it is 'a word', expected a mapping"),
        ("recipe.yaml", "seed: 0", "recipe.yaml is damaged: data is not there"),
        ("run.json", "{", r"run\.json is damaged"),
        ("recipe.yaml", "data: digits", "recipe.yaml is damaged: data is 'digits', expected a mapping"),
        ("evaluation.json", "", r"evaluation\.json is damaged: .*; move it away and measure again"),
        ("evaluation.json", "{}", r"evaluation\.json is damaged: subject is not there .*; move it away and measure"),
        (
            "evaluation.json",
            '{"subject": {"weights": "w", "data": "d", "images": 1}}',
            "attacks is not there .*; move it away and measure again",
        ),
        ("best.json", '{"epoch": ', r"best\.json is damaged: .*; move it away"),
        ("best.json", "{}", r"best\.json is damaged: epoch is not there"),
        ("probe.json", "{}", r"probe\.json is damaged: subject is not there"),
        ("metrics.jsonl", epochs(1) + '{"epoch":\n', r"metrics\.jsonl is damaged in line 2: .*; move it away"),
        ("metrics.jsonl", "{}\n", r"metrics\.jsonl is damaged in line 1: epoch is not there"),
    ],
)
def test_a_damaged_run_is_left_out_of_the_list_and_named(
    tmp_path: Path, name: str, content: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    for run in ("bad", "good"):
        claim(tmp_path / run, TEXT, {}, {})
    edit(tmp_path / "bad" / name, content)
    with pytest.raises(ValueError, match=message):
        Run(tmp_path / "bad").check()
    assert [run.path.name for run in list_runs(tmp_path)] == ["good"]
    assert str(tmp_path / "bad" / name) in caplog.text


def test_a_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    claim(tmp_path / "run", TEXT, {}, {})
    lines = [epochs(epoch, objective={"prototype_counts": [epoch, 3]}) for epoch in (1, 2)]
    (tmp_path / "run/metrics.jsonl").write_text("".join(lines) + '{"epoch": 3, "obj')
    run = Run(tmp_path / "run")
    assert [line.epoch for line in run.metrics] == [1, 2]
    assert run.prototype_counts == [(1, [1, 3]), (2, [2, 3])]
    assert (run.best, run.evaluation, run.complete) == (None, None, False)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Folder, name: str, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    write(tmp_path / "record.json", "before")
    monkeypatch.setattr(Folder, "write_new", full)
    with pytest.raises(DiskError, match="No space left on device"):
        write(tmp_path / "record.json", "after")
    assert (tmp_path / "record.json").read_text() == "before"


def test_the_commit_is_that_of_the_source_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "__init__.py").write_text("")
    monkeypatch.setattr(store, "_PACKAGE", tmp_path)

    def found() -> str | None:
        store._commit.cache_clear()  # as a process of its own
        return environment(torch.device("cpu"), 1)["commit"]

    assert found() is None  # a repository, but not of this file
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "start"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert found() == commit
    (tmp_path / "__init__.py").write_text("changed")
    assert found() == f"{commit}-dirty"
    store._commit.cache_clear()


def test_a_damaged_audit_is_named(tmp_path: Path) -> None:
    assert Records(tmp_path).audit is None
    for content in ("{", "[]", "{}"):
        (tmp_path / "audit.json").write_text(content)
        with pytest.raises(ValueError, match=r"audit.json is damaged.*; move it away and audit again"):
            _ = Records(tmp_path).audit


def test_a_run_of_pretraining_is_measured_by_linear_heads(tmp_path: Path) -> None:
    for name, method, pretrains in (("a", "protoat.pretraining.ACL", True), ("b", "protoat.methods.PGDAT", False)):
        claim(tmp_path / name, f"{TEXT}method: {{class_path: {method}}}\n", {}, {})
        run = Run(tmp_path / name)
        assert run.pretrains is pretrains
        assert run.measuring.endswith(" --linear-probe") is pretrains


def test_a_fact_that_is_not_there_is_named(tmp_path: Path) -> None:
    claim(tmp_path / "run", TEXT, {"num_classes": 2}, {})
    assert Run(tmp_path / "run").fact("num_classes") == 2
    edit(tmp_path / "run/run.json", "{}")
    with pytest.raises(ValueError, match=r"run\.json is damaged or not there: no 'num_classes'; put it back, or train"):
        Run(tmp_path / "run").fact("num_classes")
