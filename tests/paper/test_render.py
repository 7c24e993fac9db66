"""Tables as text: what is printed is what was measured, in each format, and nothing of it breaks the format."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from protoat.paper.budget import Budget, read_budget
from protoat.paper.render.csv import to_csv
from protoat.paper.render.document import Document, document
from protoat.paper.render.latex import to_latex
from protoat.paper.render.markdown import to_markdown
from protoat.paper.render.terminal import to_terminal
from protoat.paper.tables import table_numbers, table_of
from protoat.paper.tables.fill import Filled, filled

from .tables.records import TABLE, by_name, record, table


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Filled:
    """PGD-AT twice and Ours once; Free is not done."""
    runs = {
        "cifar10-pgd-mine-0": record(tmp_path / "pgd-0", 180, 90, 80, seconds=30.0),
        "cifar10-pgd-mine-1": record(tmp_path / "pgd-1", 184, 92, 80, seconds=30.0),
        "cifar10-ours-mine-0": record(tmp_path / "ours", 190, 140, 70, seconds=33.0, counts=[3, 4]),
    }
    metrics = runs["cifar10-ours-mine-0"].metrics
    metrics[1] = replace(metrics[1], stopped="it collapsed")
    monkeypatch.setattr("protoat.paper.tables.fill.finished", by_name(runs))
    return table(tmp_path, seeds=(0, 1))


@pytest.fixture
def printed(measured: Filled) -> Document:
    return document(3, measured)


def test_a_cell_shows_percentages_with_interval_images_and_seeds(printed: Document) -> None:
    (sheet,) = printed.sheets
    rows = [dict(zip(sheet.header, row, strict=True)) for row in sheet.rows]
    assert sheet.title == "measured on CIFAR10 test; n = 200, 2 seeds, where a cell says nothing else"
    # 91 and 50 per cent with half widths of Student's interval of two: 12.706 * sd / sqrt(2).
    assert rows[0]["Clean, ours"] == "91.0 ± 1.4 [78.3, 100.0]"
    assert rows[0]["PGD10, paper"] == "50.00"
    assert rows[2]["PGD10, ours"] == "70.0 [63.3, 75.9] (1 seed)"
    assert rows[2]["Worst mode"] == "low: 10.0 [5.5, 17.4] (n = 100, 1 seed)"
    assert rows[2]["Minutes, ours"] == "1.1"
    assert rows[0]["Minutes, ours"] == "1 ± 0"
    assert rows[2]["Overhead (%)"] == "10"
    assert rows[0]["Overhead (%)"] == ""
    assert rows[2]["Prototypes"] == "3/4"
    assert [rows[1][name] for name in ("Clean, ours", "Minutes, ours", "Prototypes")] == ["—"] * 3
    assert rows[1]["Clean, paper"] == "81.20"


def test_what_is_missing_stands_there_with_its_command(printed: Document, tmp_path: Path) -> None:
    names = [name for name, _ in printed.missing]
    assert names == ["cifar10-free-mine-0", "cifar10-free-mine-1", "cifar10-ours-mine-1"]
    command = printed.missing[0][1]
    assert command.startswith("protoat train --config cifar10 --method FreeAT --method.replays 8 ")
    assert f"protoat evaluate {tmp_path}/cifar10-free-mine-0-" in command
    assert command.endswith(" --attacks clean pgd10 aa --n 200")


def test_it_says_who_is_best_and_where_no_difference_is_shown(printed: Document) -> None:
    said = " | ".join(printed.remarks)
    assert "CIFAR10, aa: no difference shown between PGD-AT, Ours." in said
    assert "CIFAR10, aa, worst mode: no difference shown" in said
    assert "ours ended after epoch 2 of 2, which was taken back: it collapsed." in said
    left = "3 to 4 prototypes in each class"
    assert f"ours: measured is epoch 2, with {left}; epoch 2, the last, leaves {left}." in said
    assert "pgd-0: measured" not in said
    (sheet,) = printed.sheets
    assert sheet.best == {(2, sheet.header.index("PGD10, ours"))}
    assert "CIFAR10, pgd10: Ours is highest, and marked; lower: PGD-AT." in said  # and not Free, which is not measured


def test_a_short_run_is_never_called_a_reproduction(printed: Document, measured: Filled) -> None:
    assert printed.budget == "Budget mine: a budget of tests. Seeds 0, 1. Not a reproduction: a short run."
    paper = Filled(TABLE, read_budget("paper"), (0,), measured.store, measured.rows, measured.columns)
    assert "eproduction" not in document(3, paper).budget
    for text in (to_markdown(printed), to_latex(printed), to_terminal(printed)):
        assert "Not a reproduction: a short run." in " ".join(text.split())


def test_notes_say_that_a_short_run_is_not_what_they_describe(printed: Document, measured: Filled) -> None:
    about, *notes = printed.notes
    assert notes == [note.text for note in TABLE.notes]
    assert "of budget paper. The runs here are of budget mine: data, networks" in about
    for text in (to_markdown(printed), to_latex(printed), to_terminal(printed)):
        assert "The runs here are of budget mine" in " ".join(text.split())
    paper = Filled(TABLE, read_budget("paper"), (0,), measured.store, measured.rows, measured.columns)
    assert document(3, paper).notes == notes


def test_notes_are_of_the_rows_and_columns_shown_under_their_heading(
    printed: Document, measured: Filled, tmp_path: Path
) -> None:
    heading = "Where this is not what the paper did, or it does not say what it did:"
    for text in (to_markdown(printed), to_latex(printed), to_terminal(printed)):
        assert text.index(heading) < text.index("A note with 100")
    assert printed.notes[-1] == "Of Free alone."
    assert "Of Free alone." not in document(3, replace(measured, rows=measured.rows[:1])).notes
    chosen = filled(table_of(2), Budget("mine", ""), seeds=[0], store=tmp_path, rows=["pgd"], columns=["MNIST"])
    notes = " ".join(document(2, chosen).notes)
    assert "steps of 0.01" in notes and "AutoAttack are ours" in notes
    for word in ("TLA", "ACL", "RoCL", "Free:", "Ours:", "Fast:", "CIFAR"):
        assert word not in notes, word


def test_every_note_is_about_a_cell_of_a_table() -> None:
    told, idle = set(), set()
    for table_ in map(table_of, table_numbers()):
        cells = [cell for row in table_.rows for column in table_.columns if (cell := table_.cell(row, column))]
        for note in table_.notes:
            (told if any(map(note.is_about, cells)) else idle).add(note)
    assert told and idle <= told


def test_nothing_is_said_of_numbers_where_there_are_none(printed: Document, measured: Filled) -> None:
    said = " ".join(printed.remarks)
    assert "In brackets" in said and "That is no test" in said and "`protoat compare`" in said
    nothing = document(3, replace(measured, rows=measured.rows[1:2]))
    assert nothing.remarks == ["Columns called 'paper' repeat the numbers that the paper prints."]


def test_the_spread_that_a_cell_has_is_said(printed: Document) -> None:
    assert "Student's over seeds, or Wilson's over the images of one where that is wider" in printed.remarks[0]


def test_markdown_holds_every_cell(printed: Document) -> None:
    lines = to_markdown(printed).splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in rows]
    plain = [[re.sub(r"\\(.)", r"\1", cell).replace("**", "") for cell in row] for row in cells]
    (sheet,) = printed.sheets
    assert plain[0] == sheet.header
    assert plain[2:] == sheet.rows
    assert [cell for row in cells for cell in row if cell.startswith("**")] == [r"**70.0 \[63.3, 75.9\] (1 seed)**"]
    assert r"Free\_AT" in rows[3]


def test_latex_escapes_and_balances(printed: Document) -> None:
    text = to_latex(printed)
    assert r"Free\_AT \& co & 81.20 & ---" in text
    assert r"\textbf{70.0 {[}63.3, 75.9{]} (1 seed)}" in text
    assert r"91.0 $\pm$ 1.4" in text
    assert r"A note with 100 \% \& more." in text
    bare = re.sub(r"\\[&%$#_{}]", "", text)
    assert bare.count("{") == bare.count("}")
    inside = bare[bare.index(r"\midrule") : bare.index(r"\bottomrule")]
    (sheet,) = printed.sheets
    assert inside.count("&") == len(sheet.rows) * (len(sheet.header) - 1)


def test_latex_compiles(printed: Document, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is absent; it comes with Debian's texlive-latex-recommended")
    packages = r"\usepackage{booktabs,graphicx}\usepackage[T1]{fontenc}"
    source = rf"\documentclass{{article}}{packages}\begin{{document}}{to_latex(printed)}\end{{document}}"
    (tmp_path / "table.tex").write_text(source)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_csv_holds_raw_counts_of_every_cell_and_seed(measured: Filled) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(3, measured))))
    assert len(lines) == 2 * len(list(measured.cells()))
    line = next(each for each in lines if (each["row"], each["column"], each["seed"]) == ("Ours", "PGD10", "0"))
    assert (line["correct"], line["total"], line["paper"], line["verdict"]) == ("140", "200", "60.00", "best")
    assert float(line["interval_low"]) == pytest.approx(0.633, abs=5e-4)
    assert "intervals overlap: no difference shown" in {each["verdict"] for each in lines if each["attack"] == "aa"}
    assert (line["budget"], line["reproduction"], line["ours_only"]) == ("mine", "False", "False")
    assert "cifar10-ours-mine-0-" in line["folder"]
    assert line["command"] == ""
    missing = next(each for each in lines if (each["row"], each["column"], each["seed"]) == ("Ours", "PGD10", "1"))
    assert (missing["correct"], missing["total"], missing["number"]) == ("", "", "")
    assert missing["command"].startswith("protoat train --config cifar10 ")
    assert next(each for each in lines if each["column"] == "Overhead (%)" and each["seed"] == "0")["number"] != ""


def test_pretraining_is_stated(tmp_path: Path) -> None:
    budget = Budget("mine", "", pretrain={"epochs": 7})
    chosen = filled(table_of(2), budget, seeds=[0], store=tmp_path, rows=["acl"], columns=["aa"])
    assert "Encoder mnist-acl-mine: pre-trained for 7 epochs." in document(2, chosen).remarks


def test_columns_of_several_data_sets_are_parted(tmp_path: Path) -> None:
    two = filled(table_of(2), Budget("mine", ""), seeds=[0], store=tmp_path, rows=["pgd"], columns=["clean", "aa"])
    sheets = document(2, two).sheets
    assert [sheet.title for sheet in sheets] == ["MNIST", "CIFAR10", "CIFAR100"]
    assert [sheet.header for sheet in sheets] == [
        ["row", "Clean, paper", "Clean, ours", "AutoAttack"],
        ["row", "Clean, paper", "Clean, ours"],
        ["row", "Clean, paper", "Clean, ours"],
    ]
    assert [sheet.rows[0][1] for sheet in sheets] == ["98.98", "83.77", "49.12"]


def test_a_heading_says_where_an_audit_is_short(tmp_path: Path) -> None:
    for budget, heading in (("smoke", "Audit (here 9 checks)"), ("paper", "Audit")):
        short = filled(table_of(9), read_budget(budget), seeds=[0], store=tmp_path, rows=["pgd"], columns=["Audit"])
        assert document(9, short).sheets[0].header[-1].removesuffix(", ours") == heading
