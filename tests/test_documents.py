"""README and docs: the commands they show are read by the parsers they are for, and the program in README runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from protoat.cli import main
from protoat.recipes.parser import Parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = sorted(
    {
        line
        for page in PAGES
        for block in re.findall(r"^```console\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        for line in re.findall(r"(?:^|&& )protoat (.*?)(?= +#| && |$)", block, re.MULTILINE)
    }
)


class _Read(BaseException):
    """Thrown once a command has been read."""


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 40


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_read(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = Parser.parse_args

    def read(self: Parser, *args: Any, **options: Any) -> None:
        parse(self, *args, **options)
        raise _Read

    monkeypatch.setattr(Parser, "parse_args", read)
    if ".help" in command:
        try:
            assert main(shlex.split(command)) == 0
        except SystemExit as ended:
            assert ended.code in (None, 0)
    else:
        with pytest.raises(_Read):
            main(shlex.split(command))


def test_every_guide_is_in_the_contents_of_the_site() -> None:
    contents = re.findall(r"```{toctree}\n(.*?)```", (ROOT / "docs" / "index.md").read_text(), re.DOTALL)
    listed = [line for block in contents for line in block.splitlines() if line and line[0] != ":"]
    guides = {path.stem for folder in ("*.md", "*.ipynb") for path in (ROOT / "docs").glob(folder)} - {"index"}
    assert len(listed) == len(set(listed)) and guides == {page for page in listed if "/" not in page}


@pytest.mark.parametrize("page", [*PAGES, *sorted(ROOT.glob("*.md"))], ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        goal = page.parent / path if path else page
        assert goal.exists() or goal.parent.name in ("gallery", "api"), f"{target}: {goal} is not there"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", goal.read_text(), re.MULTILINE)
            places = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in places, f"{target}: no such heading"


def test_the_program_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    torch.manual_seed(0)
    assert program.count("epochs(15, ") == 1  # epochs; two are enough to see that it runs
    exec(program.replace("epochs(15, ", "epochs(2, "), {})
    accuracy, low = re.match(r"([\d.]+) \(([\d.]+)", capsys.readouterr().out).groups()
    assert float(low) < float(accuracy) <= 1
