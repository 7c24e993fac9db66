"""What a terminal shows: a bar in one line that goes away, messages above it, tables as wide as it is."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import subprocess
import sys

import pytest

from protoat.cli.outcome import run
from protoat.cli.printing import print_table

# A command that shows a bar with a text too long for one line, and says something meanwhile.
PROGRAM = """
import logging, sys
from protoat.cli.outcome import run
from protoat.cli.progress import Shown

def main(args):
    with Shown() as shown:
        shown.at(1, 4, "much " * 60)
        logging.getLogger("protoat").info("said meanwhile")
        shown.at(2, 4, "more " * 60)
    print("the result")

sys.exit(run("example", main, []))
"""


def on_a_terminal(program: str, columns: int) -> str:
    """What a program writes to a terminal, with its escape sequences."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "LINES": "20", "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", program], stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        written = b""
        try:
            while part := os.read(ours, 4096):
                written += part
        except OSError:  # as Linux says that the other end is closed
            pass
        assert process.wait() == 0
    os.close(ours)
    return written.decode().replace("\r\n", "\n")


def screen(written: str) -> list[str]:
    """The lines that are left on the screen: a small part of what a terminal does."""
    lines, row = [""], 0
    for word in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if word == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif word == "\x1b[1A":
            row -= 1
        elif word == "\x1b[2K":
            lines[row] = ""
        elif word[0] not in "\r\x1b":
            lines[row] += word
    return [line.strip() for line in lines if line.strip()]


def test_a_message_stands_above_the_bar_which_goes_away() -> None:
    written = on_a_terminal(PROGRAM, 80)
    assert screen(written) == ["said meanwhile", "the result"]
    shown = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]", written)]
    (bar,) = {line for line in shown if "50%" in line}
    assert "more more" in bar and bar.rstrip().endswith("…")
    assert max(map(len, shown)) <= 80


def test_messages_go_to_where_standard_error_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    shown = io.StringIO()

    def main(args: list[str]) -> None:
        monkeypatch.setattr(sys, "stderr", shown)  # as a progress bar does
        logging.getLogger("protoat").warning("said meanwhile")

    assert run("example", main, []) == 0
    assert shown.getvalue() == "said meanwhile\n"


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_cells_keep_their_line_where_there_is_room(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    heads = ["attack", "accuracy %", "95 % interval", "images", "worst class", "worst mode", "images/s"]
    row = ["worst case", "82.5", "76.6 to 87.1", "200", "5-9: 82.0", "8: 47.4", "6,322"]
    print_table("measured", heads, [row])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    (found,) = [line for line in lines if "worst case" in line]
    assert all(cell in found for cell in row) and max(map(len, lines)) <= columns


@pytest.mark.parametrize("columns", range(52, 101))
def test_no_table_loses_a_word(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    heads = ["digit", "training images", "PGD-AT", "modes known", "modes discovered"]
    row = ["0", "103", "100.0 [100.0, 100.0]", "99.3 [98.0, 100.0]", "95.3 [90.0, 100.0]"]
    print_table("the same for each mode", heads, [row])
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert not {word for cell in [*heads, *row] for word in cell.split()} - set(shown.split())
    assert max(map(len, shown.splitlines())) <= columns
