"""``protoat audit``: the table, ``audit.json``, the exit code, and what it finds beside a run."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from protoat.cli import main
from protoat.evaluation import attack_of_name
from protoat.evaluation.masking_audit import CHECKS
from protoat.recipes.reading import read_recipe
from protoat.runs.measure import audit_verdict
from protoat.runs.run import Run
from protoat.runs.train import train

SHORT = ["--epochs", "4", "--validation_size", "50", "--method.steps", "2", "--schedule", "none", "--batch_size", "64"]
STANDARD = ["--method", "Standard", "--regularizer", "none", "--epochs", "2", "--validation_size", "0"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    for name, options in {"ours": SHORT, "plain": [*STANDARD, "--schedule", "none"]}.items():
        train(read_recipe("digits-2", options), root / name, progress=False)
    return {name: root / name for name in ("ours", "plain")}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The most expensive attacks, cut short."""
    short = {"square": "square100", "apgd-t": "apgd-t10", "noise5000": "noise50", "corner5000": "corner50"}
    monkeypatch.setattr(
        "protoat.evaluation.masking_audit.context.attack_of_name",
        lambda name, threat: attack_of_name(short.get(name, name), threat),
    )


def test_a_run_with_everything_it_needs(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    ours, plain = str(runs["ours"]), str(runs["plain"])
    assert main(["evaluate", ours, "--attacks", "clean", "pgd2", "apgd-t10", "fab3", "square50", "--n", "40"]) == 0
    capsys.readouterr()
    assert main(["audit", ours, "--n", "40", "--surrogate", plain]) == 0
    shown = capsys.readouterr().out
    content = json.loads((runs["ours"] / "audit.json").read_text())
    assert [check["id"] for check in content["checks"]] == [check.id for check in CHECKS]
    assert {check["status"] for check in content["checks"]} == {"pass"}
    assert content["passed"] is True
    assert content["images"] == 40
    assert content["subject"]["sha256"] == sha256((runs["ours"] / "best.safetensors").read_bytes()).hexdigest()
    adaptive = next(check for check in content["checks"] if check["id"] == "C21")["figures"]["parts"]
    assert any("adaptive-combined20" in part for part in adaptive)
    for check in content["checks"]:
        row = next(line for line in shown.splitlines() if line.startswith(f"│ {check['id']} "))
        assert "│ pass " in row
        assert check["title"] in row
    all_checks = f"audit passed, {len(CHECKS)} of {len(CHECKS)} checks on 40 images"
    assert f"{all_checks}, which rules out common mistakes only; 0 checks were not run" in shown
    assert f"{all_checks}: " in audit_verdict(Run(ours).subject())
    assert "other weights, data or radius" in audit_verdict(Run(ours).subject("last"))


def test_without_a_record_and_other_models_it_says_what_is_missing(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(runs["plain"]), "--n", "20", "--out", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "audit incomplete; 4 checks were not run" in shown
    assert "the record lacks what is checked by C1, C10, C11, C19; " in shown
    assert "--surrogate RUN" in shown
    assert (tmp_path / "audit.json").exists()
    assert not (runs["plain"] / "audit.json").exists()


def test_a_record_that_lacks_attacks_is_no_pass_and_no_failure(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [str(runs["ours"]), "--n", "20", "--out", str(tmp_path)]
    assert main(["evaluate", *options, "--attacks", "pgd2"]) == 0
    assert main(["audit", *options, "--checks", "C10", "C15"]) == 1
    shown = capsys.readouterr().out
    assert "audit incomplete; " in shown and "FAILED" not in shown
    last = shown.splitlines()[-1]
    assert last.startswith("the record lacks what is checked by C10; ")
    assert last.endswith(f"protoat evaluate {runs['ours']} --out {tmp_path} --attacks aa")
    said = audit_verdict(replace(Run(runs["ours"]).subject(), folder=tmp_path))
    assert said.startswith("audit incomplete, the record lacked what is checked by C10; audit again: ")
    other = ["--weights", "last", "--threat.eps", "0.05"]
    assert main(["audit", options[0], *other, *options[1:], "--checks", "C10"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f"protoat evaluate {runs['ours']} {' '.join(other)} --out {tmp_path} --attacks aa")
    assert main(["evaluate", options[0], *other, *options[1:], "--attacks", "pgd2", "--head", "prototypes"]) == 0
    said = capsys.readouterr().out
    assert f"protoat audit {runs['ours']} {' '.join(other)} --out {tmp_path} --head prototypes" in said


def test_a_record_of_another_radius_is_none(runs: dict[str, Path], tmp_path: Path) -> None:
    options = ["--n", "10", "--out", str(tmp_path)]
    assert main(["evaluate", str(runs["ours"]), "--attacks", "clean", *options]) == 0
    for radius, status in (("0.1", "pass"), ("0.05", "incomplete")):
        main(["audit", str(runs["ours"]), *options, "--threat.eps", radius, "--checks", "C1"])
        content = json.loads((tmp_path / "audit.json").read_text())
        assert {check["id"]: check["status"] for check in content["checks"]}["C1"] == status
        assert content["threat"]["eps"] == float(radius)


class Rounded(nn.Module):
    """Any model, with a cheat inside."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((4 * x).round().flatten(1))


def test_a_failed_audit_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(Rounded().state_dict(), tmp_path / "weights.safetensors")
    out = tmp_path / "out"
    model = ["--model", f"{__name__}:Rounded", "--weights", str(tmp_path / "weights.safetensors"), "--data", "Digits"]
    assert main(["audit", *model, "--threat.eps", "0.1", "--out", str(out), "--n", "20", "--checks", "C15", "C16"]) == 1
    assert "audit FAILED: " in (shown := capsys.readouterr().out)
    assert "C16" in shown
    content = json.loads((out / "audit.json").read_text())
    assert content["passed"] is False
    assert content["subject"]["model"].endswith(":Rounded")


class Plain(nn.Sequential):
    """A model without any defence."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 10))


def test_a_few_checks_replace_no_fuller_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "audit.json"

    def audited(*options: str, eps: str = "0.1") -> tuple[bool, str]:
        """Whether it was written, and what was said."""
        before = path.read_text() if path.exists() else None
        model = ["--model", f"{__name__}:Plain", "--data", "Digits", "--threat.eps", eps, "--out", str(tmp_path)]
        assert main(["audit", *model, *options]) == 0
        return path.read_text() != before, capsys.readouterr().out

    assert audited("--checks", "C15", "C17", "--n", "20")[0]
    for fewer in (["C17", "--n", "30"], ["C15", "C16", "C17", "--n", "19"]):
        written, said = audited("--checks", *fewer)
        assert not written
        assert f"{path} stays as it was, 2 of {len(CHECKS)} checks on 20 images; " in said
    written, said = audited("--checks", "C16", "C17", "--n", "21")
    assert written and f"audit passed, 2 of {len(CHECKS)} checks on 21 images" in said
    written, said = audited("--checks", "C17", "--n", "1", eps="0.2")
    assert written and f"audit passed, 1 of {len(CHECKS)} checks on 1 image, " in said


def test_mistakes_are_one_line_and_write_nothing(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(read_recipe("digits", ["--epochs", "1", "--method.steps", "1"]), tmp_path / "ten", progress=False)
    ours, out = str(runs["ours"]), tmp_path / "out"
    for options, message in (
        (["--n", "0"], "--n 0 must be at least 1"),
        (["--batch-size", "-1"], "--batch-size -1 must be at least 1"),
        (["--surrogate", str(tmp_path / "none")], "is not a run folder"),
        (["--surrogate", str(tmp_path / "ten")], "was trained on classes ['0', '1', '2'"),
        (["--surogate", ours], "did you mean '--surrogate'"),
        (["--threat.eps", "8"], "write 8/255"),
    ):
        assert main(["audit", ours, "--out", str(out), *options]) == 2
        complaint = capsys.readouterr().err
        assert message in complaint
        assert complaint.count("\n") == 1
    assert not out.exists()
    assert torch.get_num_threads() == 1
