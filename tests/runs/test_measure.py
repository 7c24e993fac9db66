"""``evaluation.json``: what is added, what is put aside, and how a killed measurement goes on."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from protoat.cli.printing import measurements
from protoat.data import Digits
from protoat.evaluation.record import Evaluation
from protoat.recipes.reading import read_recipe
from protoat.reports.blocks import Grid
from protoat.reports.sections.measured import attacks
from protoat.runs.measure import audit_verdict, measure
from protoat.runs.records import Records
from protoat.runs.run import Run
from protoat.runs.subject import Subject, with_prototype_head
from protoat.runs.train import train
from protoat.training import Interrupted
from protoat.types import Output
from tests.whole import checked, edit

SHORT = ["--epochs", "3", "--validation_size", "50", "--method", "Standard", "--schedule", "none", "--batch_size", "64"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(read_recipe("digits-2", [*SHORT, "--evaluation_threat.eps", "0.05"]), folder, progress=False)
    return folder


@pytest.fixture
def subject(trained: Path, tmp_path: Path) -> Subject:
    """The run, with records in a folder of this test."""
    return replace(Run(trained).subject(), folder=tmp_path / "record")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """What was logged since the last call, one line for each record, without the note on two classes."""
    caplog.set_level(logging.INFO, logger="protoat")

    def take() -> str:
        lines = [line for record in caplog.records if not (line := record.getMessage()).startswith("note: two classes")]
        caplog.clear()
        return "\n".join(lines)

    return take


def stored(subject: Subject) -> dict:
    return dict(json.loads((subject.folder / "evaluation.json").read_text()))


def test_attacks_on_the_same_images_add_up(subject: Subject) -> None:
    first = measure(subject, ["clean", "fgsm"], limit=100)
    added = measure(subject, ["pgd2", "fgsm@0.1", "aa@0.6"], limit=100, batch_size=30)
    record = stored(subject)
    assert list(record["attacks"]) == ["clean", "fgsm", "pgd2", "fgsm@0.1", "aa-k2@0.6"]
    assert record["subject"] == {**subject.identity, "threat": {"norm": "linf", "eps": 0.05}, "images": 100}
    assert record["attacks"]["clean"]["correct"] == first["clean"].count.correct
    assert record["attacks"]["pgd2"]["batch_size"] == 30
    assert record["attacks"]["aa-k2@0.6"]["parameters"]["version"] == "aa-k2"
    radii = {name: entry["parameters"].get("eps") for name, entry in record["attacks"].items()}
    assert radii == {"clean": None, "fgsm": 0.05, "pgd2": 0.05, "fgsm@0.1": 0.1, "aa-k2@0.6": 0.6}
    assert sorted(path.name for path in subject.folder.iterdir()) == ["evaluation.json", "manifest.json"]
    assert added.to_json() == record == Evaluation.from_json(record).to_json()


def test_what_was_measured_before_is_marked_as_earlier(subject: Subject, capsys: pytest.CaptureFixture[str]) -> None:
    first = measure(subject, ["noise2", "fgsm"], limit=60)
    assert first.measured == {} and "measured" not in str(first)
    record = measure(subject, ["fgsm"], limit=60)  # clean is always measured
    times = {"clean": "latest", "noise2": "earlier", "fgsm": "latest", "worst case": "latest"}
    assert {**record.measured} == times
    assert [line.split()[-1] for line in str(record).splitlines()[1:]] == ["measured", *times.values()]
    assert record._repr_html_().count("<td>earlier</td>") == 1
    measurements("mine", record)
    shown = capsys.readouterr().out
    marks = {line.split()[1]: line.split()[-2] for line in shown.splitlines() if line.startswith("│")}
    assert marks["clean"] == "latest" and marks["noise2"] == "earlier"
    assert "earlier: kept from a measurement before" in shown
    table = next(block for block in attacks(Records(subject.folder)) if isinstance(block, Grid))
    assert [row[-1] for row in table.rows] == [*times.values()]
    del (content := record.to_json())["attacks"]["noise2"]["measured"]  # as an earlier version wrote it
    assert Evaluation.from_json(content).measured == times


def test_the_worst_case_covers_what_was_measured_before(subject: Subject) -> None:
    measure(subject, ["fgsm", "pgd10"], limit=100)
    measure(subject, ["noise20", "fgsm@0.1"], limit=100)
    record = stored(subject)
    worst = record["worst_case"]
    assert worst["parameters"]["attacks"] == ["clean", "fgsm", "pgd10", "noise20"]
    entering = [record["attacks"][name]["outcomes"] for name in worst["parameters"]["attacks"]]
    assert worst["outcomes"] == "".join(min(column) for column in zip(*entering, strict=True))
    assert worst["correct"] == worst["outcomes"].count("1") == sum(m["correct"] for m in worst["per_mode"].values())
    assert worst["total"] == 100


def test_other_images_or_threats_put_the_record_aside_and_say_so(subject: Subject, said: Callable[[], str]) -> None:
    measure(subject, ["fgsm"], limit=60)
    assert said() == ""
    old = (subject.folder / "evaluation.json").read_bytes()
    measure(subject, ["clean"], limit=50)
    (aside,) = subject.folder.glob("evaluation-*.json")
    assert aside.read_bytes() == old
    line = said()
    assert "images changed" in line
    assert f"is now {aside.name}; it held clean, fgsm" in line
    assert list(stored(subject)["attacks"]) == ["clean"]
    other = replace(subject, threat=replace(subject.threat, eps=0.2), identity={**subject.identity, "sha256": "f"})
    measure(other, ["clean"], limit=50)
    assert "sha256, threat changed" in said()
    assert len(list(subject.folder.glob("evaluation-*.json"))) == 2


def test_more_images_of_the_same_attacks_replace_the_record(subject: Subject, said: Callable[[], str]) -> None:
    measure(subject, ["fgsm"], limit=60)
    measure(subject, ["fgsm", "pgd2"], limit=70)
    assert sorted(path.name for path in subject.folder.iterdir()) == ["evaluation.json", "manifest.json"]
    assert said() == ""
    measure(subject, ["pgd2"], limit=80)  # fewer attacks
    assert "images changed" in said()
    assert len(list(subject.folder.glob("evaluation*.json"))) == 2


def test_more_images_than_there_are_is_said(subject: Subject, said: Callable[[], str]) -> None:
    measure(subject, ["clean"], limit=501)
    assert said() == "--n 501: there are 500 test images, all of them are measured"
    assert stored(subject)["subject"]["images"] == 500


def test_a_killed_measurement_goes_on_with_the_same_result(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = replace(subject, folder=subject.folder / "whole")
    measure(whole, ["fgsm", "pgd2"], batch_size=128)
    steps = 0

    def killed(step: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="run the same command again"):
        measure(subject, ["fgsm", "pgd2"], batch_size=128, advance=killed)
    assert not (subject.folder / "evaluation.json").exists()
    assert len(list((subject.folder / "evaluation.partial").iterdir())) == 5
    measure(subject, ["fgsm", "pgd2"], batch_size=128)
    for name, entry in stored(whole)["attacks"].items():
        assert stored(subject)["attacks"][name]["outcomes"] == entry["outcomes"]
    assert not (subject.folder / "evaluation.partial").exists()


def test_a_short_measurement_leaves_what_a_killed_long_one_kept(subject: Subject) -> None:
    def killed(step: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        measure(subject, ["pgd2"], batch_size=128, advance=killed)
    kept = list((subject.folder / "evaluation.partial").iterdir())
    measure(subject, ["fgsm"], limit=50)
    assert list((subject.folder / "evaluation.partial").iterdir()) == kept != []
    measure(subject, ["pgd2"], batch_size=128)
    assert not (subject.folder / "evaluation.partial").exists()


def test_other_weights_do_not_use_what_was_kept(subject: Subject) -> None:
    def killed(step: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        measure(subject, ["fgsm"], advance=killed)
    blank = replace(subject, identity={**subject.identity, "sha256": "0"})
    torch.nn.init.zeros_(blank.model.head.weight)
    report = measure(blank, ["fgsm"])
    assert report["clean"].count.correct in (248, 252)  # one class for all


def test_bfloat16_never_takes_the_place_of_float32(subject: Subject, said: Callable[[], str]) -> None:
    coarse = measure(subject, ["pgd4"], limit=50, attack_precision="bf16")
    assert coarse["pgd4"].parameters["precision"] == "bf16"
    exact = measure(subject, ["pgd4"], limit=50)
    assert "precision" not in exact["pgd4"].parameters
    said()
    kept = measure(subject, ["pgd4"], limit=50, attack_precision="bf16")
    assert kept["pgd4"].to_json() == exact["pgd4"].to_json() == stored(subject)["attacks"]["pgd4"]
    assert "pgd4: the record keeps what was measured in float32, not in bf16" in said()
    more = measure(subject, ["pgd4"], limit=100, attack_precision="bf16")
    assert more["pgd4"].parameters["precision"] == "bf16"
    (aside,) = subject.folder.glob("evaluation-*.json")
    assert json.loads(aside.read_text()) == kept.to_json()


def test_the_budget_is_said_and_a_later_call_goes_on(subject: Subject, said: Callable[[], str]) -> None:
    measure(subject, ["fgsm"], batch_size=100, budget_seconds=1e-9)
    assert "the budget of 1e-09 s ended after 100 of 500 images; run the same command again" in said()
    record = stored(subject)
    assert record["subject"]["images"] == record["attacks"]["fgsm"]["total"] == record["worst_case"]["total"] == 100
    kept = {path.name for path in (subject.folder / "evaluation.partial").iterdir()}
    measure(subject, ["fgsm"], batch_size=100, budget_seconds=1e-9)
    assert {path.name for path in (subject.folder / "evaluation.partial").iterdir()} == kept
    measure(subject, ["fgsm"], batch_size=100)
    assert stored(subject)["subject"]["images"] == 500
    assert sorted(path.name for path in subject.folder.iterdir()) == ["evaluation.json", "manifest.json"]


def test_an_error_leaves_the_record_as_it_was(subject: Subject) -> None:
    measure(subject, ["clean"], limit=50)
    before = (subject.folder / "evaluation.json").read_bytes()
    with pytest.raises(ValueError, match="unknown"):
        measure(subject, ["clean", "pdg"], limit=50)
    assert (subject.folder / "evaluation.json").read_bytes() == before


def test_a_damaged_record_is_named(subject: Subject) -> None:
    subject.folder.mkdir()
    edit(subject.folder / "evaluation.json", "{")
    with pytest.raises(ValueError, match=r"evaluation\.json is damaged"):
        measure(subject, ["clean"])


def test_other_classes_than_those_of_training_are_refused(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = replace(read_recipe("digits-2").data.load("test"), class_names=tuple("abcdefghij"))
    monkeypatch.setattr(Digits, "load", lambda self, split: renamed)
    with pytest.raises(ValueError, match=r"was trained on classes \['0-4', '5-9'\], and the data now has"):
        Run(trained).subject()


def test_what_would_spoil_a_measurement_is_said_and_kept(subject: Subject, said: Callable[[], str]) -> None:
    measure(subject, ["{class_path: PGD, init_args: {steps: 2, step_size: 0.01}}"], limit=50)
    assert said().startswith("warning: PGD: 2 steps of 0.01 move no pixel by more than 0.02")
    findings = {finding["code"]: finding["severity"] for finding in stored(subject)["lint"]}
    assert findings == {"short-reach": "warning", "two-classes": "note"}


def test_no_finding_is_called_an_error_where_the_command_succeeds(
    subject: Subject, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unsure = replace(subject, model=nn.Sequential(subject.model, First(), nn.Softmax(1)))
    measure(unsure, ["clean"], limit=20)
    assert said().startswith("the numbers below will mean nothing: outputs are probabilities")
    asked = []
    monkeypatch.setattr("protoat.runs.measure.lint", lambda *args, **options: asked.append(options) or [])
    measure(subject, ["clean"], limit=20)
    measure(replace(subject, identity=subject.identity | {"model": "mine:net"}), ["clean"], limit=20)
    assert [options["pixels_known"] for options in asked] == [True, False]


class First(nn.Module):
    def forward(self, output: Output) -> torch.Tensor:
        return output.logits


def test_the_verdict_of_an_audit_is_of_these_very_weights(subject: Subject) -> None:
    assert "not audited" in audit_verdict(subject)
    subject.folder.mkdir()
    whole = [checked("A1", "pass"), checked("C3", "pass")]
    failed = [whole[0], checked("C3", "fail")]
    for identity, checks, verdict in (
        (subject.identity, whole, "audit passed, 2 of 2 checks on 50 images: "),
        (subject.identity, failed, "audit FAILED (C3)"),
        ({**subject.identity, "sha256": "0"}, whole, "is of other weights, data or radius"),
    ):
        threat = {"norm": subject.threat.norm, "eps": subject.threat.eps}
        audit = {"subject": identity, "threat": threat, "images": 50, "checks": checks}
        edit(subject.folder / "audit.json", json.dumps(audit))
        assert verdict in audit_verdict(subject)


def test_prototypes_predict_in_a_record_of_their_own(subject: Subject) -> None:
    by_prototypes = with_prototype_head(subject)
    measure(by_prototypes, ["clean", "adaptive5"], limit=50)
    measure(subject, ["clean"], limit=50)
    assert stored(by_prototypes)["subject"]["head"] == "prototypes"
    assert list(stored(by_prototypes)["attacks"])[1:] == [
        f"adaptive-{name}5" for name in ("combined", "leave", "approach", "displace")
    ]
    x = by_prototypes.data.images.float() / 255
    with torch.no_grad():
        predicted = subject.regularizer.predict(subject.model(x).embedding)
        assert torch.equal(by_prototypes.model(x).logits.argmax(1), predicted)
