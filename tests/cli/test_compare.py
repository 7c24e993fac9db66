"""``protoat compare``: two runs image by image, seeds of one recipe together, and what cannot be compared."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from protoat.cli import main
from tests.whole import edit

from ..evaluation.test_compare import content as recorded


@pytest.fixture
def run(tmp_path: Path):
    """Writes a folder with a recipe and an evaluation in which the first images stay right; returns its path."""

    def make(name: str, method: str | None, seed: int, right: int, **attacks: int) -> str:
        folder = tmp_path / name
        folder.mkdir()
        if method is not None:
            edit(
                folder / "recipe.yaml",
                f"data: {{class_path: Digits}}\nmethod: {{class_path: {method}}}\nseed: {seed}\n",
            )
        outcomes = {
            key: "1" * count + "0" * (200 - count) for key, count in {"clean": 200, "pgd10": right, **attacks}.items()
        }
        edit(folder / "evaluation.json", json.dumps(recorded(outcomes, sha256=name)))
        return str(folder)

    return make


def test_two_runs_image_by_image(run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", run("a", "PGDAT", 0, 100), run("b", "TRADES", 0, 130, aa=90)]) == 0
    shown = capsys.readouterr().out
    flat = shown.replace("\n", "")
    assert re.search(r"^\S*/a and \S*/b, 200 images", flat)
    assert "after Holm's correction for the 2 tests made here" in shown.replace("\n", " ")
    row = next(line for line in shown.splitlines() if line.startswith("│ pgd10"))
    for cell in ("50.0", "65.0", "+15.00", "1.9e-09", "3.7e-09", "0 / 30", "a difference"):
        assert f" {cell} " in row
    assert "no difference shown" in next(line for line in shown.splitlines() if line.startswith("│ clean"))
    assert "high: 0.0 [0.0, 3.7]" in shown
    table = shown.partition("each mode, pgd10\n")[2]
    weakest, other = [line.split("│")[1:-1] for line in table.splitlines() if line.startswith("│")][:2]
    cells = ["high", "0.0 [0.0, 3.7]", "30.0 [21.9, 39.6]", "+30.0", "a difference"]
    assert [cell.strip() for cell in weakest] == cells and other[0].strip() == "low"
    assert "One run each: this says nothing about other seeds" in shown
    assert re.search(r"^aa is not compared: not measured in \S*/a", flat.partition("recipes.")[2])
    assert "worst cases are not compared" in shown.replace("\n", " ") and "│ worst case" not in shown


def of_many_modes(folder: Path, in_one: int, sha256: str) -> str:
    """Writes an evaluation with 20 modes of 50 images, of which half are right in all modes but one."""
    folder.mkdir()
    counts = {f"m{number}": in_one if number == 7 else 25 for number in range(20)}
    record = recorded({"pgd10": "".join("1" * right + "0" * (50 - right) for right in counts.values())}, sha256=sha256)
    for entry in (record["attacks"]["pgd10"], record["worst_case"]):
        entry["per_mode"] = {name: {"correct": right, "total": 50} for name, right in counts.items()}
    edit(folder / "evaluation.json", json.dumps(record))
    return str(folder)


def test_of_many_modes_one_that_chance_could_part_shows_no_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = of_many_modes(tmp_path / "a", 14, "a")
    for name, right, verdict in (("b", 28, "no difference shown"), ("c", 34, "a difference")):
        assert main(["compare", first, of_many_modes(tmp_path / name, right, name)]) == 0
        shown = capsys.readouterr().out
        row = next(line for line in shown.splitlines() if line.startswith("│ m7 "))
        assert row.split("│")[-2].strip() == verdict
        assert "after Holm's correction for all comparisons of modes made here" in shown.replace("\n", " ")
        worst = shown.partition("worst mode\n")[2].partition("each mode")[0]
        assert "no difference shown" in next(line for line in worst.splitlines() if line.startswith("│ pgd10"))


def test_the_more_is_tested_the_surer_each_must_be(run, capsys: pytest.CaptureFixture[str]) -> None:
    def verdict(*folders: str) -> str:
        assert main(["compare", *folders]) == 0
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("│ pgd10"))

    a, b, c = run("a", "PGDAT", 0, 100), run("b", "TRADES", 0, 108), run("c", "FreeAT", 0, 100)
    row = verdict(a, b)
    assert " 0.0078 " in row and " 0.023 " in row and "a difference" in row  # one of three tests
    row = verdict(a, b, c)
    assert " 0.0078 " in row and " 0.047 " in row and "a difference" in row  # of six
    row = verdict(a, b, c, run("d", "MART", 0, 100))
    assert " 0.0078 " in row and " 0.07 " in row and "no difference shown" in row


def test_seeds_of_one_recipe_are_told_apart_from_single_runs(run, capsys: pytest.CaptureFixture[str]) -> None:
    ours = [run(f"ours{seed}", "TRADES", seed, right) for seed, right in enumerate((120, 124, 128))]
    theirs = [run(f"theirs{seed}", "PGDAT", seed, right) for seed, right in enumerate((100, 104, 108))]
    single = run("single", "FreeAT", 0, 140)
    assert main(["compare", *theirs, *ours, single]) == 0
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if line.startswith("│ pgd10"))
    for cell in ("52.0 ± 2.0", "62.0 ± 2.0", "70.0 [63.3, 75.9]"):
        assert cell in row
    rows = [line for line in shown.splitlines() if line.startswith("│ pgd10 ")][1:]
    assert "+10.00" in rows[0]
    assert "a difference" in rows[0]
    assert "+18.00" in rows[1]
    assert "a difference" in rows[1]
    assert f"{theirs[0]} (3 seeds): {theirs[0]}, {theirs[1]}, {theirs[2]}" in shown.replace("\n", " ")
    assert f"{single}: one run" in shown.replace("\n", "")
    assert "One run each" not in shown
    assert main(["compare", *ours, single]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│ pgd10 ")]
    assert "+8.00" in rows[1]
    assert "no difference shown" in rows[1]


def test_over_seeds_what_one_run_lacks_is_named(run, capsys: pytest.CaptureFixture[str]) -> None:
    ours = [run(f"ours{seed}", "TRADES", seed, 120 + seed, aa=90) for seed in range(2)]
    theirs = [run("theirs0", "PGDAT", 0, 100, aa=80), run("theirs1", "PGDAT", 1, 104)]
    assert main(["compare", *theirs, *ours]) == 0
    shown = capsys.readouterr().out.replace("\n", " ")
    assert f"aa is not compared: not measured in {theirs[1]} worst cases are not compared" in shown
    assert "weights measured" not in shown


def test_the_last_weights_are_no_seed_of_the_best(run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = run("a", "PGDAT", 0, 100), run("b", "PGDAT", 1, 104)
    path = tmp_path / "b/evaluation.json"
    edit(path, path.read_text().replace("best.safetensors", "last.safetensors"))
    assert main(["compare", a, b]) == 0
    shown = capsys.readouterr().out.replace("\n", " ")
    assert "seeds)" not in shown
    assert f"weights measured: {a}: best.safetensors; {b}: last.safetensors" in shown


def test_an_attack_of_other_parameters_is_another_one(run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = run("a", "PGDAT", 0, 100), run("b", "TRADES", 0, 104)
    path = tmp_path / "b/evaluation.json"
    record = json.loads(path.read_text())
    record["attacks"]["pgd10"]["parameters"]["steps"] = 11
    edit(path, json.dumps(record))
    assert main(["compare", a, b]) == 0
    assert "pgd10 is not compared: other parameters" in capsys.readouterr().out


def test_copies_of_a_run_are_no_seeds(run, capsys: pytest.CaptureFixture[str]) -> None:
    a, copy, other = run("a", "PGDAT", 0, 100), run("copy", "PGDAT", 0, 100), run("other", "PGDAT", 1, 104)
    assert main(["compare", a, copy]) == 0
    assert "One run each" in (shown := capsys.readouterr().out) and "seeds)" not in shown
    assert main(["compare", a, other, copy]) == 0
    shown = capsys.readouterr().out.replace("\n", "")
    assert f"{a} (2 seeds): {a}, {other}" in shown and f"{copy}: one run" in shown


def test_runs_have_short_names(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    run("runs/ours-12ab", "PGDAT", 0, 100)
    run("runs/theirs-34cd56", "TRADES", 0, 100)
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "ours-12ab", "34cd56"]) == 0


def test_seeds_that_all_agree_show_no_difference_by_it(run, capsys: pytest.CaptureFixture[str]) -> None:
    ours = [run(f"ours{seed}", "TRADES", seed, 120) for seed in range(2)]
    theirs = [run(f"theirs{seed}", "PGDAT", seed, 118) for seed in range(2)]
    worse = [run(f"worse{seed}", "FreeAT", seed, 40) for seed in range(2)]
    assert main(["compare", *theirs, *ours, *worse]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│ pgd10 ")][1:]
    assert "+1.00" in rows[0] and "no difference shown" in rows[0]
    assert "-39.00" in rows[1] and "a difference" in rows[1]


def test_an_evaluation_of_earlier_weights_is_refused(run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = run("a", "PGDAT", 0, 100), run("b", "PGDAT", 1, 100)
    (tmp_path / "b/best.safetensors").write_bytes(b"trained on since")
    assert main(["compare", a, b]) == 2
    assert f"the evaluation of {b} is of earlier weights; measure again: protoat evaluate" in capsys.readouterr().err


def test_folders_without_a_recipe_are_single_runs(run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", run("a", None, 0, 100), run("b", None, 0, 100)]) == 0
    assert "One run each" in capsys.readouterr().out


def test_what_cannot_be_compared_is_one_line(run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = run("a", "PGDAT", 0, 100), run("b", "PGDAT", 1, 100)
    other = json.loads((tmp_path / "b/evaluation.json").read_text())
    for change, message in (
        ({"data_sha256": "f" * 64}, "it was measured on Digits test (ffffffff), there Digits test (01234567)"),
        ({"threat": {"norm": "linf", "eps": 0.3}}, "it was measured on linf 0.3, there linf 0.1"),
    ):
        content = other | {"subject": other["subject"] | change}
        edit(tmp_path / "b/evaluation.json", json.dumps(content))
        assert main(["compare", a, b]) == 2
        complaint = capsys.readouterr().err
        assert message in complaint
        assert complaint.count("\n") == 1
    edit(tmp_path / "b/evaluation.json", json.dumps(recorded({"clean": "1" * 100}, sha256="b")))
    assert main(["compare", a, b]) == 2
    assert "it was measured on 100 images, there 200 images" in capsys.readouterr().err
    edit(tmp_path / "b/evaluation.json", {"subject": {"weights": "w", "data": "d", "images": 9}, "attacks": {}})
    assert main(["compare", a, b]) == 2
    assert "is of an earlier version; measure again" in capsys.readouterr().err
    (tmp_path / "b/evaluation.json").unlink()
    for folders, message in (
        ([a, b], "has no evaluation.json; measure it first: protoat evaluate"),
        ([a], "at least two different folders"),
        ([a, a], "at least two different folders"),
    ):
        assert main(["compare", *folders]) == 2
        assert message in capsys.readouterr().err
