"""Where nothing can be written is said before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from protoat.storage.path_checks import check_file, check_folder


def test_trying_leaves_nothing_behind(tmp_path: Path) -> None:
    check_file(tmp_path / "new/deeper/table.tex")
    check_folder(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.tex").write_text("before")
    check_file(tmp_path / "old.tex")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "afile").write_text("")
    with pytest.raises(ValueError, match=f"^--out {tmp_path} is a folder, expected a file to write$"):
        check_file(tmp_path)
    with pytest.raises(ValueError, match=r"afile is a file, expected a folder$"):
        check_file(tmp_path / "afile/deeper/table.tex")
    with pytest.raises(ValueError, match=r"^--out /proc/new cannot be written: "):
        check_folder(Path("/proc/new"))
