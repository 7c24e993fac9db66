from __future__ import annotations

import base64
import json
import math
import re
import shlex
from collections.abc import Callable
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from protoat.cli import main
from protoat.evaluation import Count
from protoat.plots.style import COLOURS, colour
from protoat.recipes.reading import read_recipe
from protoat.reports.blocks import Grid, Section, Text
from protoat.reports.html import report
from protoat.reports.page import Chapter, render
from protoat.reports.sections.summary import described
from protoat.reports.sections.training import prototypes
from protoat.runs.probe import probe_run
from protoat.runs.records import RunRecords
from tests.reports.pages import SECTIONS, Page
from tests.whole import edit, with_correct

from ..cli.test_compare import of_many_modes

_HOSTILE = '</script><img src=x onerror=alert(1)>&"'


def _wilson(correct: int, total: int) -> tuple[float, float]:
    """Wilson's interval as in the paper of 1927, in per cent."""
    z, p = 1.959963984540054, correct / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return 100 * (middle - half), 100 * (middle + half)


def _page(folders: list[Path], tmp_path: Path, **options: Any) -> Page:
    return Page(report(folders, tmp_path / "report.html", **{"images": 0} | options))


@pytest.fixture(scope="module")
def page(runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Of the first run, without attacked images."""
    return _page([runs[0]], tmp_path_factory.mktemp("page"))


def _changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The folder, its evaluation changed."""
    path = folder / "evaluation.json"
    record = json.loads(path.read_text())
    change(record)
    edit(path, json.dumps(record))
    return folder


def test_every_section_is_there_in_order(page: Page) -> None:
    assert [text for tag, text in page.headings if tag == "h3"] == SECTIONS
    levels = [int(tag[1]) for tag, _ in page.headings]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels))


def test_summary_names_head_modes_and_weighting_where_there_are_some(tmp_path: Path) -> None:
    told = {}
    chosen = ["--head", "MultiPrototypeHead", "--modes", "known", "--weighting", "group-dro"]
    for name, options in (("plain", []), ("modes", chosen)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(read_recipe("digits-2", options).text)
        told[name] = described(RunRecords(tmp_path / name))
    added = {"head": "MultiPrototypeHead", "modes": "KnownModes", "weighting": "GroupDRO"}
    assert told["modes"] == told["plain"] | added and not told["plain"].keys() & added.keys()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--regularizer.projection", "none"], "with --regularizer.projection batchnorm --regularizer.gamma 0.3"),
        ([], "with a higher --regularizer.gamma, --regularizer.tau 0"),
        (["--modes", "known", "--regularizer.tied", "true"], None),
    ],
)
def test_a_class_held_by_one_prototype_is_told(options: list[str], said: str | None, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(read_recipe("digits-2", options).text)
    learned = {"prototype_counts": [2, 2], "in_use": [2, 2], "usage": [[0.05, 0.95], [0.5, 0.5]]}
    line = {"epoch": 1, "update": 9, "lr": 0.1, "total": 1.0, "eps": 0.1, "seconds": 1.0, "objective": learned}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    blocks = prototypes(RunRecords(tmp_path), {})
    told = [block.text for block in blocks if isinstance(block, Text) and block.kind == "warning"]
    change = f"train {said}, or a lower --prototype_lr_factor."
    assert told == [f"One prototype of class 0 takes 95% of its images, so no modes are told apart; {change}"] * bool(
        said
    )


def test_table_of_attacks_holds_the_counts_of_the_record(runs: tuple[Path, Path], page: Page) -> None:
    record = json.loads((runs[0] / "evaluation.json").read_text())
    rows = page.tables["Accuracy under attack, with Wilson's 95 % interval"]
    assert [row[0] for row in rows[1:]] == ["clean", "pgd5", "pgd5@0.2", "worst case"]
    for row, entry in zip(rows[1:], [*record["attacks"].values(), record["worst_case"]], strict=True):
        low, high = _wilson(entry["correct"], entry["total"])
        lowest = min(counts["correct"] / counts["total"] for counts in entry["per_mode"].values())
        share = f"{100 * entry['correct'] / entry['total']:.1f}"
        assert row[1:4] == [f"{share} [{low:.1f}, {high:.1f}]", str(entry["correct"]), str(entry["total"])]
        assert row[5].endswith(f": {100 * lowest:.1f}")


def test_table_of_modes_begins_with_the_weakest_and_the_summary_says_so(runs: tuple[Path, Path], page: Page) -> None:
    record = json.loads((runs[0] / "evaluation.json").read_text())
    modes, clean = record["worst_case"]["per_mode"], record["attacks"]["clean"]["per_mode"]
    order = sorted(modes, key=lambda name: modes[name]["correct"] / modes[name]["total"])
    rows = page.tables["Accuracy of each mode, the weakest first, with Wilson's 95 % interval"][1:]
    assert [row[0] for row in rows] == order
    for row in rows:
        for cell, counts in zip(row[1:3], (clean[row[0]], modes[row[0]]), strict=True):
            low, high = _wilson(counts["correct"], counts["total"])
            assert cell == f"{100 * counts['correct'] / counts['total']:.1f} [{low:.1f}, {high:.1f}]"
    weakest = modes[order[0]]
    low, high = _wilson(weakest["correct"], weakest["total"])
    sure = f"{100 * weakest['correct'] / weakest['total']:.1f}\u00a0% [{low:.1f}, {high:.1f}]"
    assert f"Your weakest mode is {order[0]}: {sure} of its {weakest['total']} images stay right" in page.words
    assert f"stay right under attack, the lowest of {len(order)} in this measurement, and " in page.words


def test_bars_are_as_long_as_the_accuracy(runs: tuple[Path, Path], page: Page) -> None:
    record = json.loads((runs[0] / "evaluation.json").read_text())
    bars = [own["style"] for tag, own in page.elements if tag == "i"]
    clean = record["attacks"]["clean"]
    low, high = _wilson(clean["correct"], clean["total"])
    assert bars[:2] == [
        f"width:{100 * clean['correct'] / clean['total']:.1f}%",
        f"left:{low:.1f}%;width:{high - low:.1f}%",
    ]


def test_each_run_has_the_colour_of_its_curves(tmp_path: Path) -> None:
    grid = Grid("", ["", *map(str, range(11))], [["", *[Count(1, 2)] * 11]])
    (tmp_path / "page.html").write_text(render("", [Chapter("a", "", [Section("b", "", [grid])])], []))
    bars = [own["style"] for tag, own in Page(tmp_path / "page.html").elements if own.get("class") == "meter"]
    assert bars == [f"--own:var(--series-{COLOURS.index(colour(number))})" for number in range(11)]


def test_summary_names_what_nobody_has_looked_at(runs: tuple[Path, Path], page: Page, tmp_path: Path) -> None:
    words = _page([runs[1]], tmp_path).words
    assert "No AutoAttack" in words
    assert f"Not audited for masked gradients; do so: protoat audit {runs[1]}" in words
    assert "knows the prototypes" not in words
    assert "knows the prototypes" in page.words
    assert "pgd5@0.2" in words.partition("Not in the worst case")[2].partition("\n")[0]


def test_page_is_one_file_that_may_load_nothing(page: Page) -> None:
    addresses = [own[key] or "" for _, own in page.elements for key in ("src", "href") if key in own]
    assert addresses and all(address.startswith(("#", "data:")) for address in addresses)
    policy = next(own["content"] for tag, own in page.elements if tag == "meta" and own.get("http-equiv"))
    running = [text for own, text in page.scripts if "type" not in own]
    digests = {base64.b64encode(sha256(text.encode()).digest()).decode() for text in running}
    assert policy is not None and "default-src 'none'" in policy
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == digests and len(digests) == 1


def test_names_from_outside_stay_text(
    runs: tuple[Path, Path], records_only: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = _changed(records_only(runs[0]), _hostile)
    hostile = folder.with_name("<b>folder<b>")
    folder.rename(hostile)
    found = _page([hostile, runs[1]], tmp_path)
    assert _HOSTILE in found.words and "<b>folder<b>" in found.words
    assert not [tag for tag, own in found.elements if tag == "b" or "onerror" in own or own.get("src") == "x"]


def _hostile(record: dict[str, Any]) -> None:
    for entry in (*record["attacks"].values(), record["worst_case"]):
        for kind in ("per_class", "per_mode"):
            first = next(iter(entry[kind]))
            entry[kind] = {_HOSTILE if name == first else name: counts for name, counts in entry[kind].items()}
    record["lint"].append({"code": _HOSTILE, "severity": _HOSTILE, "text": _HOSTILE})


def test_where_no_modes_are_known_none_are_spoken_of(tmp_path: Path) -> None:
    run = tmp_path / "classes"
    assert main(["train", "--config", "digits", "--epochs", "1", "--schedule", "none", "--out", str(run)]) == 0
    assert main(["evaluate", str(run), "--attacks", "clean", "pgd2", "--n", "50"]) == 0
    found = _page([run], tmp_path, images=50)
    assert "Your weakest class is" in found.words and "weakest mode" not in found.words
    assert "No modes are known that prototypes could agree with." in found.words and "purity" not in found.words
    assert next(text for tag, text in found.headings if tag == "h5").startswith("class ")


def test_each_run_is_embedded_and_attacked_once(
    runs: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        _page(list(runs), tmp_path, images=20)
    said = [record.message for record in caplog.records if "embedding" in record.message]
    assert sorted(said) == sorted(
        f"{run}: embedding 20 test images{how}" for run in runs for how in ("", " under pgd10")
    )


def test_records_without_weights_say_what_they_lack(
    runs: tuple[Path, Path], records_only: Callable[[Path], Path], tmp_path: Path
) -> None:
    found = _page([records_only(runs[0])], tmp_path, images=10)
    assert [text for tag, text in found.headings if tag == "h3"] == SECTIONS
    assert found.words.count("needs weights, and this folder holds records only") == 4
    assert "has not finished" not in found.words and "earlier weights" not in found.words


def test_without_the_data_each_part_that_needs_it_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROTOAT_DATA", str(tmp_path))
    found = Page(report(["zoo:mnist-2"], tmp_path / "report.html"))
    said = [record.message.partition(": MNIST is not in ")[0] for record in caplog.records]
    assert said == [
        f"{what} of zoo:mnist-2: left out" for what in ("attacked images", "map of embeddings", "retrieval")
    ]
    assert found.words.count("could not be drawn: MNIST is not in") == 3


def test_a_measurement_without_a_run_is_reported(runs: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "measured"
    folder.mkdir()
    edit(folder / "evaluation.json", (runs[0] / "evaluation.json").read_text())
    found = _page([folder], tmp_path, images=10)
    assert [text for tag, text in found.headings if tag == "h3"] == SECTIONS
    assert "There is no recipe" in found.words
    assert "Accuracy of each mode, the weakest first, with Wilson's 95 % interval" in found.tables


def test_audit_of_something_else_is_marked(
    runs: tuple[Path, Path], page: Page, records_only: Callable[[Path], Path], tmp_path: Path
) -> None:
    message = "The audit is not about what was measured: sha256 differ; audit again."
    assert message not in page.words
    folder = _changed(records_only(runs[0]), lambda record: record["subject"].update(sha256="0"))
    assert message in _page([folder], tmp_path).words


def test_a_pretrained_encoder_is_reported_by_its_linear_heads(tmp_path: Path) -> None:
    run = tmp_path / "encoder"
    assert main(["pretrain", "--config", "digits-acl", "--epochs", "1", "--schedule", "none", "--out", str(run)]) == 0
    assert "--linear-probe" in _page([run], tmp_path).words
    record = probe_run(run, attacks=("clean", "pgd5"), updates=1, limit=20)
    found = _page([run], tmp_path)
    assert "Not measured: there is no evaluation.json" not in found.words.partition("Classes and modes")[0]
    rows = found.tables["Linear heads on the frozen encoder: accuracy % with its 95 % interval"]
    clean = record.encoders["random"]["robust"]["clean"]
    own = next(row for row in rows if row[:2] == ["random", "robust"])
    assert own[rows[0].index("clean")].startswith(f"{100 * clean.accuracy:.1f} [")
    assert found.code["The same recipe, trained and measured in a new folder"].endswith(
        "protoat evaluate encoder-again --linear-probe --attacks clean pgd5 --n 20"
    )


def test_comparison_says_what_is_shown_and_what_is_not(
    runs: tuple[Path, Path], records_only: Callable[[Path], Path], tmp_path: Path
) -> None:
    def broken(record: dict[str, Any]) -> None:
        record["attacks"]["clean"] = with_correct(record["attacks"]["clean"], 0)
        record["worst_case"] = with_correct(record["worst_case"], 0)

    ours = runs[0]
    worse = _changed(records_only(ours), broken)
    found = _page([ours, worse], tmp_path)
    rows = next(rows for caption, rows in found.tables.items() if caption.endswith("image by image"))
    verdicts = {row[0]: row[rows[0].index("verdict")] for row in rows[1:]}
    assert verdicts == {
        "clean": "a difference",
        "pgd5": "no difference shown",
        "pgd5@0.2": "no difference shown",
        "worst case": "a difference",
    }
    assert "Holm's correction for the 4 tests made here" in found.words
    total = json.loads((ours / "evaluation.json").read_text())["attacks"]["clean"]
    assert rows[1][rows[0].index("difference")] == f"{-100 * total['correct'] / total['total']:+.2f}"


def test_a_mode_that_is_chosen_by_the_measurement_is_said_to_be(tmp_path: Path) -> None:
    low = Path(of_many_modes(tmp_path / "low", 14, "0"))
    caption = "Accuracy % of each mode, worst case, with Wilson's 95 % interval"
    for name, right, verdict in (("near", 28, "no difference shown"), ("far", 34, "a difference")):
        found = _page([low, Path(of_many_modes(tmp_path / name, right, "1"))], tmp_path)
        weakest, *others = found.tables[caption][1:]
        assert (weakest[0], weakest[-1]) == ("m7", verdict)
        assert {row[-1] for row in others} == {"no difference shown"}
        lead = found.words.partition("The weakest mode of low in this measurement is m7: ")[2].partition("\n")[0]
        assert f": {verdict}, corrected for all modes compared here." in lead
        count = "50.0\u00a0% [36.6, 63.4]"
        assert f"The weakest mode of {name} is m0: {count}; of the two weakest no difference shown." in lead
        assert lead.endswith(f"The mode was chosen by this very measurement, which favours {name}.")


def test_what_differs_in_recipes_is_listed(runs: tuple[Path, Path], tmp_path: Path) -> None:
    found = _page(list(runs), tmp_path)
    rows = found.tables["plain against ours"]
    assert all(row[0].startswith("regularizer") for row in rows[1:])
    assert ["regularizer.scale", "20.0", "none"] in rows


def test_runs_that_saw_other_images_are_not_compared(
    runs: tuple[Path, Path], records_only: Callable[[Path], Path], tmp_path: Path
) -> None:
    other = _changed(records_only(runs[1]), lambda record: record["subject"]["threat"].update(eps=0.2))
    found = _page([runs[0], other], tmp_path)
    assert "cannot be compared" in found.words
    assert not [caption for caption in found.tables if caption.endswith("image by image")]


def test_commands_of_the_report_give_the_same_numbers(
    runs: tuple[Path, Path], page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = page.code["The same recipe, trained and measured in a new folder"].splitlines()
    train, evaluate, audit = [shlex.split(line) for line in commands if not line.startswith("#")]
    assert (train[0], audit[:2]) == ("protoat", ["protoat", "audit"])
    assert main(train[1:]) == 0 and main(evaluate[1:]) == 0
    there, here = (
        json.loads((folder / "evaluation.json").read_text()) for folder in (runs[0], tmp_path / "ours-again")
    )
    assert here["subject"] == there["subject"]
    for name, entry in there["attacks"].items():
        assert here["attacks"][name]["outcomes"] == entry["outcomes"]


@pytest.mark.parametrize("attack, asked", [("aa-k2", "aa"), ("standard@0.1", "aa@0.1")])
def test_autoattack_is_asked_for_by_its_name(
    runs: tuple[Path, Path], records_only: Callable[[Path], Path], tmp_path: Path, attack: str, asked: str
) -> None:
    def renamed(record: dict[str, Any]) -> None:
        record["attacks"][attack] = record["attacks"].pop("pgd5@0.2") | {"parameters": {"attack": "AutoAttack"}}
        record["attacks"]["Mine"] = record["attacks"]["clean"] | {"parameters": {"attack": "Mine"}}

    found = _page([_changed(records_only(runs[0]), renamed)], tmp_path)
    commands = found.code["The same recipe, trained and measured in a new folder"]
    assert f"--attacks clean pgd5 {asked} --n" in commands
    assert "settings of your own: Mine\n" in commands


def test_folders_that_cannot_be_reported_are_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folders, message in (
        ([tmp_path / "empty"], "holds nothing to report"),
        ([runs[0], runs[0]], "none of them twice"),
        ([], "at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            report(folders, tmp_path / "report.html")
    with pytest.raises(ValueError, match="images=-1 must be 0 or more"):
        report([runs[0]], tmp_path / "report.html", images=-1)
    assert not (tmp_path / "report.html").exists()
