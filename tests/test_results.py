"""The tables that the guides show are those that the records in results/ give."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from protoat.cli import main
from protoat.runs.run import list_runs

ROOT = Path(__file__).parents[1]
PLACE = re.compile(r"""/(root|home|tmp)/|(^|[\s"'=:])~?/\w[^\s"']*/""")  # of a machine: any absolute path
GUIDE = (ROOT / "docs" / "results.md").read_text()


def shown() -> list[Any]:
    """Commands of the guide that read the records, and what it says they print."""
    commands = [line for line in GUIDE.splitlines() if line.startswith("protoat ") and "--store results" in line]
    tables = re.findall(r"<!-- printed -->\n\n(.*?)\n\n<!-- end -->", GUIDE, flags=re.S)
    return [
        pytest.param(command, table, marks=[pytest.mark.slow] if "JPEG" in command else [])  # 60,000 pictures
        for command, table in zip(commands, tables, strict=True)
    ]


@pytest.mark.parametrize(("command", "table"), shown())
def test_the_guide_shows_what_the_commands_print(
    command: str,
    table: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    if "Gain" in command:  # on the same images, whose modes are looked up
        request.getfixturevalue("data_root")
    monkeypatch.chdir(ROOT)
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out.strip() == table.strip()


def test_the_guide_shows_tables() -> None:
    assert len(shown()) > 3


def test_records_hold_no_weights_and_no_paths_of_a_machine() -> None:
    runs = list_runs(ROOT / "results")
    assert runs and all(run.is_record for run in runs)
    assert all(run.evaluation for run in runs if not run.pretrains)  # encoders have no head that could be measured
    for file in (path for path in (ROOT / "results").rglob("*") if path.is_file()):
        assert file.suffix in (".json", ".jsonl", ".yaml")
        assert not PLACE.search(file.read_text()), file
