"""The study of modes: what its rows train and measure, and how gains are read off records."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from protoat.data import ImageData, regroup
from protoat.evaluation import AttackReport, Count, evaluate
from protoat.evaluation.record import WORST_CASE, Evaluation, Judged
from protoat.evaluation.statistics import count_by
from protoat.paper.budget import Budget, read_budget
from protoat.paper.mode_rows import DATA
from protoat.paper.render.document import document
from protoat.paper.tables import readings, table_of
from protoat.paper.tables.fill import Filled, filled
from protoat.paper.tables.table import WORST_CASE as COLUMN
from protoat.recipes.fingerprint import differences
from protoat.storage.parsing import parse_yaml
from protoat.threats import Linf

SETUPS = [
    "plain",
    "soft-triple",
    "soft-triple-projected",
    "soft-triple-shared",
    "soft-triple-kmeans",
    "logsumexp",
    "known",
    "discovered",
    "discovered-plain",
]
SETUPS += [f"{name}-weights" for name in SETUPS]


def study(number: int = 10, *, budget: str = "cpu", seeds: tuple[int, ...] = (0,), **chosen: Any) -> Filled:
    return filled(table_of(number), read_budget(budget), seeds=seeds, store=Path("nowhere"), **chosen)


def test_the_table_calls_the_worst_case_as_records_do() -> None:
    assert COLUMN == WORST_CASE


@pytest.mark.parametrize("number", [10, 11])
def test_rows_differ_in_what_they_are_about_alone(number: int) -> None:
    allowed = ("regularizer", "head", "modes", "weighting", "weight", "norm_weight", "norm", "dml_input")
    jobs = {
        row.setup.name: row.setup.job(DATA[number == 11], Budget("mine", ""), seed=0) for row in table_of(number).rows
    }
    plain, *others = [parse_yaml(job.recipe.text) for job in jobs.values()]
    assert list(jobs) == [f"{'strong-' * (number == 11)}{name}" for name in SETUPS]
    assert plain["regularizer"] is plain["head"] is plain["modes"] is None
    for other in others:
        assert {found.key.partition(".")[0] for found in differences(plain, other)} <= set(allowed)


def test_runs_with_prototypes_are_attacked_by_what_knows_them() -> None:
    attacks = {task.job.name: task.attacks for task in study(columns=["digits-2"]).tasks()}
    assert set(attacks) == {f"modes-digits-2-{name}-cpu-0" for name in SETUPS}
    plain = attacks.pop("modes-digits-2-plain-cpu-0")
    assert attacks.pop("modes-digits-2-plain-weights-cpu-0") == plain
    assert (set(plain), set(map(frozenset, attacks.values()))) == (
        {"clean", "aa"},
        {frozenset({"clean", "aa", "adaptive"})},
    )
    smoke = study(columns=["digits-2"], rows=["known"], budget="smoke").tasks()
    assert smoke[0].attacks == ("clean", "apgd-ce20", "adaptive5")


def test_modes_of_the_plain_run_are_found_in_that_of_the_same_seed() -> None:
    found = study(columns=["digits-2", "clean"], rows=["discovered-plain-weights"], seeds=(3,)).tasks()
    (job,) = [task.job for task in found]
    assert job.takes == "embeddings"
    assert job.start == study(columns=["digits-2", "clean"], rows=["plain"], seeds=(3,)).tasks()[0].job


def test_a_gain_needs_the_plain_row_and_a_share_the_ceiling() -> None:
    gain = study(columns=["gain", "digits-2"], rows=["logsumexp"]).tasks()
    assert [task.job.name for task in gain] == ["modes-digits-2-logsumexp-cpu-0", "modes-digits-2-plain-cpu-0"]
    share = study(columns=["share of ceiling", "digits-2"], rows=["logsumexp"]).tasks()
    assert [task.job.name for task in share[2:]] == ["modes-digits-2-known-cpu-0"]
    plain, known = (table_of(10).rows[SETUPS.index(name)] for name in ("plain", "known"))
    of = {line.label: line for line in table_of(10).columns}
    assert table_of(10).cell(plain, of["Gain"]) is table_of(10).cell(known, of["Share of ceiling"]) is None


def test_notes_name_the_setting_of_the_data_shown_and_not_that_of_the_budget() -> None:
    cells = {"rows": ["plain"], "columns": ["cifar10-2", "clean"]}
    shown = document(10, study(**cells))
    assert "1000 test images" in shown.budget and "ResNet" not in shown.budget
    (setting,) = [note for note in shown.notes if note.startswith("CIFAR10-2")]
    recipe = study(**cells).tasks()[0].job.recipe
    assert f"LeNet, all training images, flipped and not cropped, L-inf 1/255, Adam, {recipe.epochs} epochs" in setting
    assert not any("MNIST, two" in note or "of budget cpu" in note for note in shown.notes)
    assert any("of budget smoke" in note for note in document(10, study(budget="smoke", **cells)).notes)


def test_a_budget_names_the_data_of_the_study(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("about: mine\nrecipes:\n  modes-mnist-2: {epochs: 3}\n  mnist-2: {epochs: 99}\n")
    (task,) = study(columns=["mnist-2", "clean"], rows=["plain"], budget=str(path)).tasks()
    assert (task.job.recipe.epochs, task.job.recipe.train_size) == (3, 10_000)
    path.write_text("about: mine\nrecipes: {modes-cifar: {epochs: 3}}\n")
    with pytest.raises(ValueError, match="did you mean 'modes-cifar10-2'"):
        read_budget(str(path))


IMAGES = SimpleNamespace(modes=torch.arange(40) % 4, labels=torch.arange(40) % 2, mode_names="abcd")


def run(folder: Path, broken: list[int], *, digest: str = "abc") -> Any:
    """One that gets all but the `broken` of 40 images right, in two classes of two modes; counted."""
    right = ~torch.isin(torch.arange(40), torch.tensor(broken))
    names = {f"{mode}": IMAGES.modes == mode for mode in range(4)}
    per_mode = {name: Count(int(right[own].sum()), int(own.sum())) for name, own in names.items()}
    parameters = {"attack": "worst case", "attacks": ["clean", "standard"]}
    case = AttackReport(Count(int(right.sum()), 40), per_mode, per_mode, parameters, right, 1.0)
    judged = Judged("best.safetensors", "Digits test", 40, data_sha256=digest)
    evaluation = Evaluation(judged, {"clean": case}, case)
    return SimpleNamespace(
        path=folder, evaluation=evaluation, test_images=IMAGES, metrics=[], choices={}, prototype_counts=[]
    )


def test_gains_and_shares_are_read_off_records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = {"plain": [0, 4, 8, 12, 16], "known": [0], "logsumexp": [0, 4, 8]}  # all of mode 0
    runs = {f"modes-digits-2-{name}-mine-0": run(tmp_path / name, images) for name, images in broken.items()}
    monkeypatch.setattr("protoat.paper.tables.fill.finished", lambda task, store: runs.get(task.job.name))
    table = filled(
        table_of(10),
        Budget("mine", ""),
        seeds=[0],
        store=tmp_path,
        rows=["plain", "logsumexp", "known"],
        columns=["digits-2"],
    )
    (sheet,) = document(10, table).sheets
    cells = {row[0]: dict(zip(sheet.header, row, strict=True)) for row in sheet.rows}
    assert cells["Plain"]["Worst mode"].startswith("0: 50.0") and cells["Plain"]["Gain"] == ""
    assert cells["Plain"]["Balanced"].startswith("87.5 [")
    assert cells["Logsumexp head"]["Gain"].startswith("+5.0 [")
    assert cells["Logsumexp head"]["Gain in worst mode"].startswith("+20.0 [")
    assert cells["Known modes"]["Gain"].startswith("+10.0 [2.5, ")
    assert cells["Logsumexp head"]["Share of ceiling"] == "50 %"
    assert cells["Logsumexp head"]["Share in worst mode"] == "50 %"
    runs["modes-digits-2-known-mine-0"] = run(tmp_path, [0, 4, 8, 12], digest="abc")
    again = filled(
        table_of(10), Budget("mine", ""), seeds=[0], store=tmp_path, rows=["logsumexp"], columns=["digits-2"]
    )
    (row,) = document(10, again).sheets[0].rows
    assert row[-2] == "no headroom shown"


@pytest.mark.parametrize("limit", [23, 60])
def test_groups_are_those_of_the_images_that_were_measured(limit: int) -> None:
    torch.manual_seed(0)
    data = regroup(
        ImageData(torch.randint(256, (60, 1, 8, 8), dtype=torch.uint8), torch.randint(4, (60,)), tuple("abcd")), 2
    )
    case = evaluate(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), data, ["clean"], threat=Linf(0.1), limit=limit)[
        "clean"
    ]
    judged = SimpleNamespace(data_sha256=data.digest(), images=limit)
    of_run = SimpleNamespace(evaluation=SimpleNamespace(subject=judged), test_images=data)
    for kind, names, counts in (
        ("modes", data.mode_names, case.per_mode),
        ("labels", data.class_names, case.per_class),
    ):
        groups = readings._groups(of_run, kind)  # type: ignore[arg-type]
        assert count_by(case.correct_mask, groups, names) == counts
