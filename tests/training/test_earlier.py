"""Checkpoints of earlier versions, in ``data/``, resume to the weights of a run that was never interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from .earlier import RUNS, STOPPED, run

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_of_before_resumes(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(DATA / name, tmp_path / name)
    found, state = run(name, tmp_path / name)
    whole, expected = run(name, tmp_path / "whole")
    assert "older" not in caplog.text
    assert state.state_dict().keys() == expected.state_dict().keys()
    assert len(list((tmp_path / name / "checkpoints").iterdir())) > 1
    # On the processor that wrote the checkpoints they are equal bit for bit; others round differently, and an attack
    # takes the sign of gradients.
    begun = {key.removeprefix("model."): value for key, value in stored(name).items() if key.startswith("model.")}
    moved = (flat(whole.state_dict()) - flat(begun)).norm()
    assert (flat(found.state_dict()) - flat(whole.state_dict())).norm() < 0.005 * moved
    assert (flat(state.state_dict()) - flat(expected.state_dict())).norm() < 0.005 * moved


def stored(name: str) -> dict[str, Tensor]:
    return load_file(DATA / name / "checkpoints" / f"{STOPPED:08d}" / "common.safetensors")


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([torch.zeros(0), *(value.float().flatten() for value in tensors.values())])


@pytest.mark.parametrize("name", RUNS)
def test_they_hold_a_state_in_the_middle_of_a_run(name: str) -> None:
    assert [path.name for path in (DATA / name / "checkpoints").iterdir()] == [f"{STOPPED:08d}"]
