"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _without_waiting_for_the_disk() -> Iterator[None]:
    """Only a machine that loses power would show a difference. Programs that tests start do wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def data_root() -> Path:
    """Folder with the real data sets; tests that need it are skipped where it is absent."""
    root = os.environ.get("PROTOAT_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("real data is absent: set PROTOAT_DATA to a folder that holds it")
    return Path(root)


@pytest.fixture
def in_two_processes(tmp_path: Path) -> Callable[..., None]:
    """Runs Python as both processes of a gloo group on this machine; fails with their output when one fails."""
    from tests.processes import begin

    def launch(*arguments: str | Path, anew: bool = False) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        running = []
        for rank in range(2):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
            running.append(begin(*arguments, log=tmp_path / f"{rank}.log", anew=anew, **group, **own))
        try:
            for process in running:
                process.join(600)
            codes = [process.exitcode for process in running]
        finally:
            for process in running:
                process.kill()
        assert codes == [0, 0], "\n".join((tmp_path / f"{rank}.log").read_text() for rank in range(2))

    return launch
