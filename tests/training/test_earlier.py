"""Checkpoints of earlier versions, in ``data/``, resume to the weights of a run that was never interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from .earlier import RUNS, STOPPED, run

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_of_before_resumes(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(DATA / name, tmp_path / name)
    found, state = run(name, tmp_path / name)
    expected, whole = run(name, tmp_path / "whole")
    assert "older" not in caplog.text
    assert state.state_dict().keys() == whole.state_dict().keys()
    assert len(list((tmp_path / name / "checkpoints").iterdir())) > 1
    for ours, theirs in ((found, expected), (state, whole)):
        for key, value in theirs.state_dict().items():
            # On the processor that wrote the checkpoints they are equal bit for bit; others round differently.
            torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.parametrize("name", RUNS)
def test_they_hold_a_state_in_the_middle_of_a_run(name: str) -> None:
    assert [path.name for path in (DATA / name / "checkpoints").iterdir()] == [f"{STOPPED:08d}"]
