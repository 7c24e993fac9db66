"""Names from outside, of classes, attacks, files and folders: they do nothing where they are printed."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import protoat.cli
from protoat.cli import main
from protoat.cli.outcome import run
from protoat.names import csv_cell, printable
from protoat.paper.render.document import Document, Sheet
from protoat.paper.render.latex import to_latex
from protoat.paper.render.markdown import to_markdown
from protoat.paper.render.terminal import to_terminal
from protoat.recipes.reading import read_recipe
from protoat.runs.store import claim
from tests.whole import attacked, edit, epochs

CLEAR = "\x1b[2J\x1b[H"
HIDDEN = ["\x1b[2J", "\x9b2J", "\x07", "\x08\x08", "\r", "\x7f", "\u202egnp", "\u2066", "\u200f", "\ufeff"]


@given(st.text())
def test_what_is_printable_moves_no_cursor_and_can_be_encoded(text: str) -> None:
    shown = printable(text)
    assert not any(character in shown for character in "\x1b\x9b\r\n\x08\u202e\u2066\u200f")
    shown.encode()
    assert printable(shown) == shown
    assert printable(text, lines=True).count("\n") == text.count("\n")


@given(st.text())
def test_no_cell_of_a_csv_file_is_a_formula(text: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow([csv_cell(text)])
    (row,) = csv.reader(io.StringIO(out.getvalue()))
    if row and row[0][:1] in tuple("=+-@\t\r"):
        float(row[0])  # nothing but a number


def document(name: str) -> Document:
    return Document(
        1, "A", "smoke", [Sheet(name, ["row", name], [[name, name]], frozenset())], [name], [name], [(name, name)]
    )


@pytest.mark.parametrize("hidden", HIDDEN)
def test_no_table_holds_controls(hidden: str) -> None:
    for form in (to_terminal, to_markdown, to_latex):
        assert hidden not in form(document(f"cat{hidden}dog"))


def test_a_name_with_an_end_of_line_stays_in_its_row() -> None:
    lines = to_markdown(document("a\n```\n| b | c |")).splitlines()
    assert not any(line.startswith(("```\n", "| b")) for line in lines)
    assert sum(line.startswith("```") for line in lines) == 2
    assert r"\input" not in to_latex(document("x\\input{/etc/passwd}"))


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A measured run whose folder, classes and attacks have hostile names."""
    folder = tmp_path / f"run{CLEAR}"
    claim(folder, read_recipe("digits-2").text, {"num_classes": 2, "class_names": [CLEAR, "=1+1"]}, {})
    edit(folder / "metrics.jsonl", epochs(1, stopped=CLEAR, objective={"prototype_counts": [1, 2]}))
    entry = attacked(30, 40)
    entry |= {kind: {f"cat{CLEAR}": {"correct": 30, "total": 40}} for kind in ("per_class", "per_mode")}
    subject = {"weights": f"best{CLEAR}", "data": f"data{CLEAR}", "images": 40, "sha256": "0", "data_sha256": "0"}
    record = {
        "subject": subject | {"threat": {"norm": "linf", "eps": 0.1}},
        "attacks": {f"pgd{CLEAR}": entry},
        "lint": [{"code": CLEAR, "severity": "note", "text": CLEAR}],
    }
    edit(folder / "evaluation.json", json.dumps(record))
    (tmp_path / f"bad{CLEAR}").mkdir()
    (tmp_path / f"bad{CLEAR}" / "recipe.yaml").write_text("data: [")
    monkeypatch.chdir(tmp_path)
    return Path(folder.name)


@pytest.mark.parametrize("command", [["ls", "."], ["show"], ["compare"], ["rm"], ["gc", ".", "--dry-run"]])
def test_no_command_prints_a_control(command: list[str], hostile: Path, capfd: pytest.CaptureFixture[str]) -> None:
    args = {"show": [str(hostile)], "compare": [str(hostile), "other"], "rm": ["--yes", str(hostile)]}.get(
        command[0], []
    )
    shutil.copytree(hostile, "other")
    main([*command, *args])
    shown = capfd.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "\\x1b[2J" in shown.out + shown.err or command[0] == "gc"


def test_an_error_is_one_line_without_controls(capfd: pytest.CaptureFixture[str]) -> None:
    def fail(args: list[str]) -> int:
        main(["show", f"no\nsuch{CLEAR}run"])
        return 0

    run("show", fail, [])
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "\x1b" not in said


@pytest.mark.parametrize(
    ("encoding", "command"), [("ascii", ["ls", "."]), ("latin-1", ["ls", "."]), ("ascii", ["show", "\u8239"])]
)
def test_a_terminal_that_knows_few_characters_is_enough(
    encoding: str, command: list[str], hostile: Path, tmp_path: Path
) -> None:
    shutil.copytree(hostile, "\u8239")
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [sys.executable, "-m", "protoat", *command],
        check=False,
        env=environment,
        capture_output=True,
        timeout=600,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert r"\u8239" in done.stdout.decode(encoding)
    assert b"Traceback" not in done.stderr and b"\x1b" not in done.stdout + done.stderr


def test_commands_print_through_say() -> None:
    """What a command prints may hold a name from outside, so a bare print is for texts of ours only."""
    folder = Path(protoat.cli.__file__).parent
    ours = {"__init__.py", "say.py", "outcome.py"}
    for path in sorted(folder.glob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        bare = [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]
        assert path.name in ours or not bare, f"{path.name}: {bare}"
