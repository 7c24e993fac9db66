"""``docs/pretraining.md``: its numbers against what is counted, its commands and its program against what runs."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path

import pytest
import torch

import protoat as pa
from benchmarks.passes import Passes, count
from protoat.data import Digits, ImageLoader
from protoat.methods import PGDAT
from protoat.models import LeNet
from protoat.pretraining import ACL, RoCL
from protoat.recipes.reading import recipe_parser

GUIDE = (Path(__file__).parents[2] / "docs/pretraining.md").read_text()
KINDS = {"`RoCL`": RoCL} | {f"`ACL`, `mode: {mode}`": partial(ACL, mode=mode) for mode in ("DS", "A2A", "A2S", "S2S")}


@pytest.mark.parametrize("name", KINDS)
def test_the_cost_of_a_step(name: str) -> None:
    (line,) = (line for line in GUIDE.splitlines() if line.startswith(f"| {name} |"))
    forwards, to_images, to_weights, cost, ratio = (cell.strip() for cell in line[1:-1].split("|")[2:])
    counted = count(KINDS[name])
    assert counted == Passes(int(forwards), int(to_images), int(to_weights))
    assert (counted.cost, round(counted.cost / count(PGDAT).cost, 2)) == (int(cost), float(ratio))


def test_its_commands_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = re.findall(r"^protoat (train|pretrain) (.*?)(?:  +#.*)?$", GUIDE, re.MULTILINE)
    assert len(commands) == 13
    for command, options in commands:
        recipe_parser(pretrains=command == "pretrain").parse_args(shlex.split(re.sub("--out .*", "", options)))


def test_its_program_runs() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    lines = program.replace("epochs=1000", "epochs=2").replace("warmup_epochs=10", "warmup_epochs=1").splitlines()
    loader = ImageLoader(Digits().load("train"), batch_size=433)
    names = {"pa": pa, "model": LeNet(10, 1, 8), "loader": loader}
    code = "\n".join(lines).replace(', out="runs/acl"', "").replace("lr=5.0", "lr=0.1")
    exec(code, names)
    assert names["model"](torch.rand(2, 1, 8, 8)).logits.shape == (2, 10)
