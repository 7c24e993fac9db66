"""Records for reports: two small runs, trained and measured once for all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from protoat.cli import main
from protoat.evaluation.masking_audit import report as masking_audit

_CHECKS = ("A1", "C1", "C9", "C10")  # two pass, one cannot run, one fails


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs on digits in two classes, with prototypes and without, measured; one of them audited, in part."""
    root = tmp_path_factory.mktemp("runs")
    ours, plain = root / "ours", root / "plain"
    _train(ours)
    _train(plain, "--regularizer", "none")
    for run in (ours, plain):
        assert main(["evaluate", str(run), "--attacks", "clean", "pgd5", "pgd5@0.2", "--n", "100"]) == 0
    with pytest.MonkeyPatch.context() as patch:  # all of them take a minute
        patch.setattr(masking_audit, "CHECKS", tuple(check for check in masking_audit.CHECKS if check.id in _CHECKS))
        assert main(["audit", str(ours), "--n", "10"]) == 1
    return ours, plain


def _train(out: Path, *changes: str) -> None:
    assert main(["train", "--config", "digits-2", "--epochs", "2", *changes, "--out", str(out)]) == 0


@pytest.fixture(scope="session")
def records_only(runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Copies the records of a run without its weights."""

    def copy(run: Path) -> Path:
        folder = tmp_path_factory.mktemp("records") / run.name
        folder.mkdir()
        for name in ("recipe.yaml", "run.json", "metrics.jsonl", "best.json", "evaluation.json", "audit.json"):
            if (run / name).exists():
                (folder / name).write_bytes((run / name).read_bytes())
        return folder

    return copy
