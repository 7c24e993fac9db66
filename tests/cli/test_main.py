"""The dispatcher: fast, light, and helpful about typing errors."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from protoat import __version__
from protoat.cli import main

COMMANDS = ("demo", "train", "pretrain", "evaluate", "show", "ls", "data")


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from protoat.cli import main; main(['--help'])\n"
        "heavy = {'torch', 'jsonargparse', 'scipy', 'rich', 'yaml'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
        seconds.append(time.perf_counter() - started)
        assert done.returncode == 0, done.stderr
    assert all(f"\n  {command} " in done.stdout for command in COMMANDS)
    assert min(seconds) < 0.5


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"], ["help"]])
def test_help_lists_every_command(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 0
    assert "usage: protoat COMMAND" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"protoat {__version__}\n"


@pytest.mark.parametrize(("command", "hint"), [("tarin", "did you mean 'train'?"), ("xyz", "write one of demo, train")])
def test_an_unknown_command_gets_a_hint(command: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command]) == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: protoat {command}" in capsys.readouterr().out


def test_the_configuration_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--config", "cifar10-2", "--method", "FreeAT", "--print_config"])
    assert stop.value.code == 0
    assert "replays: 8" in capsys.readouterr().out
