"""The tutorial: its program and its commands do what it says, one after the other, on few of its pictures."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import protoat as pa
from protoat.cli import main

GUIDE = (Path(__file__).parents[1] / "docs" / "tutorial.md").read_text()
PICTURES = 6  # of each mode and split, so that an epoch and an attack take no time
SHORTER = {
    "train": ["--epochs", "1", "--schedule", "none", "--validation_size", "8"],
    "evaluate": ["--n", "20"],
}


@pytest.mark.slow
def test_the_tutorial_from_folder_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    exec(program, {})
    folders = sorted(Path("my-pictures").glob("*/*/*"))
    counts = {folder.name: len(list(folder.iterdir())) for folder in folders if folder.parts[1] == "train"}
    assert len(folders) == 20 and sorted(counts, key=counts.__getitem__)[:2] in (["4", "9"], ["9", "4"])
    for folder in folders:
        for picture in sorted(folder.iterdir())[PICTURES:]:
            picture.unlink()
    blocks = re.findall(r"```console\n(.*?)```", GUIDE, re.DOTALL)
    for line in "".join(blocks).splitlines():
        _, command, *arguments = shlex.split(line)
        assert main([command, *arguments, *SHORTER.get(command, [])]) == 0, capsys.readouterr().err

    plain, modes = (pa.Run(f"runs/{name}").evaluation for name in ("plain", "modes"))
    assert len(plain["aa"].per_mode) == len(modes["aa"].per_mode) == 10
    assert modes.attacks.keys() - plain.attacks.keys() >= {"adaptive-head-towards", "adaptive-displace"}
    assert pa.Run("runs/modes").recipe.weighting is not None and pa.Run("runs/plain").recipe.weighting is None
    report = Path("report.html").read_text()
    assert "runs/plain" in report and "runs/modes" in report
    assert len(Path("predictions.csv").read_text().splitlines()) == 1 + 10 * PICTURES
