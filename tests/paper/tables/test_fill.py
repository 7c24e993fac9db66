"""What a table needs, and what it reads off records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protoat.errors import UserError
from protoat.paper.budget import Budget
from protoat.paper.rows import FREE, OURS, PGD
from protoat.paper.tables import table_of
from protoat.paper.tables.fill import filled
from protoat.paper.tables.readings import Reading, read
from protoat.paper.tables.table import Cell, Line, Table
from tests.whole import checked

from .records import BUDGET, TABLE, record


def cell(table, row: int, column: str) -> Cell:
    found = table.table.cell(table.rows[row], next(line for line in table.columns if line.label == column))
    assert found is not None
    return found


def one(table, row: int, column: str) -> Reading:
    (value,) = table.values(cell(table, row, column))
    return value.reading


def test_each_reading_is_what_the_record_holds(filled_with, tmp_path: Path) -> None:
    table = filled_with(
        {
            "cifar10-pgd-mine-0": record(tmp_path / "pgd", 180, 90, 80, seconds=30.0),
            "cifar10-ours-mine-0": record(tmp_path / "ours", 190, 100, 70, seconds=33.0, counts=[3, 4]),
        }
    )
    count = one(table, 2, "PGD10").count
    assert count is not None
    assert (count.correct, count.total) == (100, 200)
    assert one(table, 2, "AutoAttack").count == (70, 200)
    assert (one(table, 2, "Worst mode").text, one(table, 2, "Worst mode").count) == ("low", (10, 100))
    assert one(table, 2, "Minutes").number == pytest.approx(66 / 60)
    assert one(table, 2, "Overhead (%)").number == pytest.approx(10.0)
    assert one(table, 2, "Prototypes").text == "3/4"
    assert one(table, 0, "Prototypes").text == "none"
    assert table.values(cell(table, 1, "Clean")) == ()


def test_a_cell_whose_attack_was_not_measured_stays_empty(filled_with, tmp_path: Path) -> None:
    run = record(tmp_path, 180, 90, 80)
    del run.evaluation.attacks["standard"]
    table = filled_with({"cifar10-pgd-mine-0": run})
    assert one(table, 0, "PGD10").count == (90, 200)
    assert table.values(cell(table, 0, "AutoAttack")) == ()
    assert table.values(cell(table, 0, "Worst mode")) == ()


def test_overhead_is_of_an_epoch_since_a_run_may_have_stopped(filled_with, tmp_path: Path) -> None:
    short = record(tmp_path / "pgd", 180, 90, 80, seconds=30.0)
    del short.metrics[1:]
    table = filled_with({"cifar10-pgd-mine-0": short, "cifar10-ours-mine-0": record(tmp_path, 1, 1, 1, seconds=60.0)})
    assert one(table, 2, "Overhead (%)").number == pytest.approx(100.0)


def test_a_row_without_a_baseline_has_no_overhead() -> None:
    overhead = next(line for line in TABLE.columns if line.read == "overhead")
    assert [TABLE.cell(row, overhead) is None for row in TABLE.rows] == [True, True, False]


def test_an_audit_is_read_with_its_failures(tmp_path: Path) -> None:
    about = {"subject": {"weights": "best.safetensors"}, "threat": {"norm": "linf", "eps": 0.1}, "images": 200}
    checks = [checked("A1", "fail"), checked("A2", "pass"), checked("C9", "not run")]
    (tmp_path / "audit.json").write_text(json.dumps(about | {"checks": checks}))
    assert read("audit", [record(tmp_path, 1, 1, 1)], "").text == "FAILED A1 (2 of 3 checks on 200 images)"
    (tmp_path / "audit.json").write_text(json.dumps(about | {"checks": checks[1:2]}))
    assert read("audit", [record(tmp_path, 1, 1, 1)], "").text == "passed (1 of 1 checks on 200 images)"
    checks = [checks[1], checked("C10", "incomplete")]
    (tmp_path / "audit.json").write_text(json.dumps(about | {"checks": checks}))
    assert read("audit", [record(tmp_path, 1, 1, 1)], "").text == "record incomplete: C10 (2 of 2 checks on 200 images)"


def test_a_data_set_and_an_attack_narrow_each_other() -> None:
    table = table_of(2)
    assert [line.label for line in table.chosen("columns", ["MNIST", "clean"])] == ["Clean"]
    assert len(table.chosen("columns", ["clean"])) == 3
    assert len(table.chosen("columns", ["mnist", "cifar10", "clean", "PGD10"])) == 4
    assert [line.label for line in table_of(5).chosen("columns", ["CIFAR10-2"])] == ["CIFAR10-2"]
    assert [line.label for line in table_of(4).chosen("rows", ["cifar10", "TLA"])] == ["CIFAR10: TLA"]


def test_a_task_is_one_run_with_all_that_its_row_measures(filled_with) -> None:
    table = filled_with({}, seeds=(0, 1))
    names = [f"cifar10-{row}-mine-{seed}" for row in ("pgd", "free", "ours") for seed in (0, 1)]
    tasks = table.tasks()
    assert [task.job.name for task in tasks] == names
    assert {task.attacks for task in tasks} == {("clean", "pgd10", "aa")}
    assert {task.images for task in tasks} == {200}
    assert table.missing() == tasks


def test_columns_that_are_left_out_are_not_measured(filled_with) -> None:
    (task,) = filled_with({}, rows=["free_at & co"], columns=["pgd10", "minutes"]).tasks()
    assert task.attacks == ("pgd10",)
    assert "--method FreeAT --method.replays 8 --optimizer.lr 0.2" in " ".join(task.job.arguments)


def test_overhead_alone_takes_two_runs(filled_with) -> None:
    tasks = filled_with({}, rows=["ours"], columns=["overhead"]).tasks()
    assert [(task.job.name, task.attacks) for task in tasks] == [
        ("cifar10-ours-mine-0", ()),
        ("cifar10-pgd-mine-0", ()),
    ]


def test_an_audit_is_asked_for_with_the_attacks_of_its_row() -> None:
    table = Table("t", (Line("PGD-AT", PGD),), (Line("PGD10", attack="pgd10"), Line("Audit", read="audit")))
    base = Line("", data=TABLE.base.data)
    both = filled(
        Table(table.title, table.rows, table.columns, base=base), Budget("mine", ""), seeds=[0], store=Path("runs")
    )
    (task,) = both.tasks()
    assert (task.attacks, task.audit, task.images) == (("pgd10",), True, None)


def test_what_a_budget_says_comes_last() -> None:
    budget = Budget("short", "", train={"epochs": 2})
    overrides = FREE.job(TABLE.base.data, budget, seed=7).overrides  # type: ignore[arg-type]
    assert (overrides["epochs"], overrides["seed"]) == (2, 7)


def test_runs_of_all_seeds_start_from_one_encoder() -> None:
    from protoat.paper.rows import CIFAR100, OURS_ACL

    first, second = (OURS_ACL.job(CIFAR100, BUDGET, seed=seed) for seed in (0, 1))
    assert first.start == second.start
    assert first.start is not None
    assert first.start.arguments == ["--config", "cifar10-acl", "--data", "CIFAR100", "--seed", "0"]
    assert first.start.name == "cifar100-acl-mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": ["our"]}, "--rows 'our' is unknown in this table; did you mean 'Ours'"),
        ({"columns": ["pdg10"]}, "--columns 'pdg10' is unknown in this table; did you mean 'PGD10'"),
        ({"seeds": (-1,)}, "seeds=-1 is outside"),
        ({"seeds": (1, 1)}, "name each seed once"),
    ],
)
def test_what_is_not_in_the_table_is_refused(filled_with, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        filled_with({}, **options)


def test_a_grid_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="the paper's values must be 1 lines of 1"):
        Table("t", (Line("a", OURS),), (Line("b"),), "1 2")


def test_a_damaged_record_leaves_its_cells_empty_and_is_named(filled_with, monkeypatch, caplog) -> None:
    table = filled_with({})

    def finished(task, store):
        raise UserError("runs/x/evaluation.json is damaged")

    monkeypatch.setattr("protoat.paper.tables.fill.finished", finished)
    assert table.values(cell(table, 0, "Clean")) == ()
    assert "left out: runs/x/evaluation.json is damaged" in caplog.text
