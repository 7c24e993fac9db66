"""``protoat pretrain`` and what takes its encoder over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from protoat.cli import main
from protoat.runs.probe import probe_run
from protoat.runs.run import Run
from protoat.storage.manifest import write_record

SHORT = ["--epochs", "2", "--batch_size", "433", "--method.steps", "1", "--schedule", "none"]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]):
    """Runs a command that must succeed; returns what it printed."""

    def run(*args: str) -> str:
        capsys.readouterr()
        assert main([*args]) == 0
        return capsys.readouterr().out

    return run


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Runs a command that must fail; returns the one line it complains with."""
    capsys.readouterr()
    assert main([*args]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("method", ["ACL", "RoCL"])
def test_pretraining_leaves_an_encoder_without_projector(method: str, tmp_path: Path, printed) -> None:
    out = tmp_path / "run"
    shown = printed("pretrain", "--method", method, *SHORT, "--out", str(out))
    assert f"protoat evaluate {out} --linear-probe" in shown
    assert f"--initialise.run {out}" in shown
    run = Run(out)
    assert run.complete
    assert (run.best, run.choices["method"]["class_path"]) == (None, f"protoat.pretraining.{method}")
    with safe_open(out / "last.safetensors", "pt") as file:
        keys = list(file.keys())
    assert all(key.startswith("model.") for key in keys)
    assert any(".adv." in key for key in keys) == (method == "ACL")
    assert "is complete already" in printed("pretrain", "--method", method, *SHORT, "--out", str(out))
    with pytest.raises(ValueError, match="pre-trained encoder without a head"):
        _ = Run(out).model


def test_methods_belong_to_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    line = refused(capsys, "pretrain", "--method", "PGDAT", "--out", out)
    assert line == "protoat pretrain: error: --method PGDAT needs labels; write --method ACL or RoCL, or protoat train"
    line = refused(capsys, "train", "--method", "ACL", "--regularizer", "none", "--out", out)
    assert line == "protoat train: error: --method ACL is for protoat pretrain"
    assert "did you mean 'RoCL'" in refused(capsys, "pretrain", "--method", "RoCl2", "--out", out)
    assert not (tmp_path / "run").exists()


def test_labels_have_no_part_in_pretraining(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "pretrain", "--config", "digits", "--method", "ACL", "--out", str(tmp_path / "run"))
    assert line.endswith("write --regularizer none --modes none --validation_size 0")
    assert not (tmp_path / "run").exists()


def test_pretraining_lasts_beyond_its_warmup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "pretrain", "--epochs", "2", "--out", str(tmp_path / "run"))
    assert "--schedule.warmup_epochs 2 leaves nothing of 2 epochs" in line
    assert not (tmp_path / "run").exists()


def test_an_encoder_is_taken_over_and_what_matched_is_said(
    tmp_path: Path, printed, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    printed("pretrain", *SHORT, "--out", str(tmp_path / "acl"))
    short = ["--epochs", "1", "--schedule", "none", "--method.steps", "1"]
    given = ["--config", "digits", "--initialise.run", str(tmp_path / "acl")]
    printed("train", *given, *short, "--method", "TRADES", "--regularizer", "none", "--out", str(tmp_path / "trades"))
    assert f"{tmp_path / 'acl/last.safetensors'}: 14 tensors loaded; every name matched" in caplog.text
    assert Run(tmp_path / "trades").facts["initialised"]["branch"] == "adv"
    printed("train", *given, *short, "--initialise.finetune", "last_block", "--out", str(tmp_path / "block"))
    again = ["train", *given, *short, "--initialise.finetune", "last_block", "--out", str(tmp_path / "block")]
    assert "is complete already" in printed(*again)
    assert "--linear-probe" in refused(capsys, "evaluate", str(tmp_path / "acl"))


def test_the_linear_probe_prints_the_random_encoder_beside_the_trained_one(
    tmp_path: Path, printed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_run, "__kwdefaults__", probe_run.__kwdefaults__ | {"updates": 5})
    printed("pretrain", *SHORT, "--out", str(tmp_path))
    shown = printed("evaluate", str(tmp_path), "--linear-probe", "--attacks", "clean", "pgd2", "--n", "100")
    record = json.loads((tmp_path / "probe.json").read_text())["encoders"]
    for encoder in ("trained", "random"):
        for head in ("standard", "robust"):
            (row,) = (line for line in shown.splitlines() if line.startswith(f"│ {encoder} ") and f" {head} " in line)
            for entry in record[encoder][head].values():
                assert f" {entry['correct']:.1f} [" in row
    assert shown.rpartition("└")[0] in printed("show", str(tmp_path))
    assert f"robust head, pgd2 {record['trained']['robust']['pgd2']['correct']:.1f}" in printed("ls", str(tmp_path))
    other = {"model.weight": torch.zeros(1)}
    write_record(tmp_path / "last.safetensors", safetensors.torch.save(other))
    assert f"protoat evaluate {tmp_path} --linear-probe" in printed("show", str(tmp_path))
    assert "--linear-probe needs a run folder" in refused(capsys, "evaluate", "--linear-probe")
    for option, value in (
        ("--threat.eps", "0.2"),
        ("--threat.norm", "l2"),
        ("--out", "x"),
        ("--head", "prototypes"),
        ("--data", "Digits"),
        ("--mean", "0.5"),
        ("--budget-seconds", "9"),
    ):
        said = refused(capsys, "evaluate", str(tmp_path), "--linear-probe", option, value)
        assert f"leave out {option}: --linear-probe goes by the recipe" in said
