"""The dispatcher: fast, light, and helpful about typing errors."""

from __future__ import annotations

import os
import subprocess
import sys

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
    for _ in range(3):
        before = os.times()
        done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
        after = os.times()
        seconds.append(sum(after[2:4]) - sum(before[2:4]))  # of the processor, however busy it is
        assert done.returncode == 0, done.stderr
    assert all(f"\n  {command} " in done.stdout for command in COMMANDS)
    assert min(seconds) < 0.5


TORCH_FREE = {
    "table": "protoat table 9 ",
    "table 12": "table '12' is unknown; write one of 1, 2, 3",
    "table two": "table 'two' is unknown; write one of 1, 2, 3",
    "table 2 --budget smok": "did you mean 'smoke'? (a file",
    "table 2 --rows PGD-ATT": "did you mean 'PGD-AT'?",
    "table 2 --columns MNST": "did you mean 'MNIST'?",
    "table --rows PGD-AT": "--rows goes with a table; write its number: protoat table 2 --rows PGD-AT",
    "tabel": "did you mean 'table'?",
    "figure": "protoat figure curves          training: loss",
    "figure transition": "figure 'transition' is unknown; did you mean 'transitions'?",
    "figure 1 --budget smok": "did you mean 'smoke'? (a file",
    "figure --images 5": "--images goes with a figure; write its name: protoat figure 1 --images 5",
}


def test_lists_and_refusals_do_not_wait_for_torch() -> None:
    code = (
        "import sys; from protoat.cli import main\n"
        f"for words in {list(TORCH_FREE)}: main(words.split())\n"
        "sys.exit(str({'torch', 'torchvision', 'scipy'} & set(sys.modules) or '') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for words, message in TORCH_FREE.items():
        assert message in done.stdout + done.stderr, words


def test_the_compiler_and_libraries_of_models_wait_until_they_are_used() -> None:
    code = (
        "import sys; from protoat.recipes.reading import read_recipe; read_recipe('digits-2')\n"
        "import protoat, protoat.runs.run, protoat.runs.any_model\n"
        "for name in protoat.__all__: getattr(protoat, name)\n"
        "late = {'torch._dynamo', 'torchvision', 'timm', 'pytorch_metric_learning'}\n"
        "sys.exit(str(late & set(sys.modules) or '') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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


@pytest.mark.parametrize("command", ["table", "evaluate", "train"])
def test_help_names_no_types_of_python(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert not [
        word
        for word in ("<class", "Literal[", "Optional[", "Union[", "Mapping", "| none", "type: str", "Path |")
        if word in shown
    ]
    assert ("default: none" in shown) == (command == "train")  # where none is what a key may be


def test_the_configuration_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--config", "cifar10-2", "--method", "FreeAT", "--print_config"])
    assert stop.value.code == 0
    assert "replays: 8" in capsys.readouterr().out
