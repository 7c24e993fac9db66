"""How commands end."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from protoat import __version__, cli
from protoat.cli.outcome import run
from protoat.data import DataNotFoundError, ImageFolder
from protoat.errors import MissingFileError, UserError
from protoat.functional import margins
from protoat.runs.cores import cores, share_of_cores
from protoat.threats import Linf
from protoat.training import CheckpointError, DiskError, Interrupted, NonFiniteLossError


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    yield
    logging.getLogger("protoat").setLevel(logging.NOTSET)


def raising(error: BaseException):
    def main(args: list[str]) -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (Interrupted("SIGINT: saved", 2), 130, "protoat train: SIGINT: saved"),
        (Interrupted("SIGTERM: saved", 15), 143, "protoat train: SIGTERM: saved"),
        (KeyboardInterrupt(), 130, "protoat train: interrupted"),
        (DiskError("could not write x: full"), 2, "protoat train: error: could not write x: full"),
        (CheckpointError("none is intact"), 2, "protoat train: error: none is intact"),
        (NonFiniteLossError("metric", float("nan"), 3, 1), 2, "protoat train: error: the metric term"),
    ],
)
def test_known_ends_have_a_line_and_a_code(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", raising(error), []) == code
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_what_protoat_raises_on_purpose_is_the_users_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", lambda args: Linf(8), []) == 2  # type: ignore[arg-type]
    assert "protoat train: error: eps=8 is outside (0, 1]" in capsys.readouterr().err
    assert run("train", lambda args: ImageFolder(path="nowhere").fetch(), []) == 2
    assert "protoat train: error: there is no folder nowhere" in capsys.readouterr().err
    assert issubclass(DataNotFoundError, FileNotFoundError)


@pytest.mark.parametrize("length", [1, 100_000])
def test_a_reader_that_leaves_is_no_defect(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert run("ls", lambda args: print("x" * length), []) == 1


def test_output_may_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert run("ls", lambda args: print("x"), []) == 0


def test_any_other_broken_pipe_keeps_its_traceback() -> None:
    with pytest.raises(BrokenPipeError, match="of another"):
        run("ls", raising(BrokenPipeError("of another")), [])


def test_one_process_of_several_speaks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for rank, expected in (("1", ""), ("0", "trained\n")):
        monkeypatch.setenv("RANK", rank)
        assert run("train", lambda args: print("trained"), []) == 0
        assert capsys.readouterr().out == expected


def test_a_defect_keeps_its_traceback() -> None:
    for defect in (
        raising(ValueError("of another library")),
        lambda args: int("seven"),
        raising(KeyError("x")),
        raising(FileNotFoundError("x")),
    ):
        with pytest.raises((ValueError, KeyError, FileNotFoundError)):
            run("train", defect, [])


@pytest.mark.parametrize("statement", ["first, second = [1]", "raise ValueError('a mistake of ours')"])
def test_a_defect_inside_protoat_keeps_its_traceback(statement: str) -> None:
    def main(args: list[str]) -> None:
        exec(compile(statement, margins.__file__, "exec"), {"__name__": margins.__name__})

    with pytest.raises(ValueError, match=r"not enough values to unpack|a mistake of ours"):
        run("train", main, [])


@pytest.mark.parametrize("kind", [UserError, MissingFileError, DataNotFoundError])
def test_an_error_for_users_is_one_line_wherever_it_is_raised(
    kind: type[UserError], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", raising(kind("it is not there")), []) == 2
    assert capsys.readouterr().err == "protoat train: error: it is not there\n"


def test_a_full_disk_behind_the_output_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as stdout:  # noqa: PTH123 - a device
        monkeypatch.setattr("sys.stdout", stdout)
        assert run("ls", lambda args: print("x" * 100_000), []) == 2
        monkeypatch.undo()
        lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert os.strerror(errno.ENOSPC) in lines[0]


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_a_full_disk_behind_the_help_is_one_line(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as stdout:  # noqa: PTH123 - a device
        monkeypatch.setattr("sys.stdout", stdout)
        assert cli.main([word]) == 2
        monkeypatch.undo()


def test_a_terminal_without_the_letters_of_a_name_gets_them_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert run("ls", lambda args: print("Zürich \udcff"), []) == 0
        monkeypatch.undo()
    assert (tmp_path / "out").read_text() == "Z\\xfcrich \\udcff\n"


@pytest.mark.parametrize("path", ["x" * 300, "loop", "private/file"])
def test_a_file_that_the_system_refuses_is_named(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "private").write_text("a file where a folder is expected")
    assert run("ls", lambda args: len(Path(args[0]).read_bytes()), [path]) == 2
    printed = capsys.readouterr().err
    assert path in printed
    assert printed.count("\n") == 1


def test_names_and_messages_come_without_control_characters_and_not_too_long(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("ls", raising(DiskError("\x1b[31mred\n\x9b" + "x" * 9000)), []) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert printed[:-1].isprintable()
    assert len(printed) < 2000


def test_an_empty_word_is_no_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("gc", raising(AssertionError("must not be called")), ["--dry-run", ""]) == 2
    assert "after --dry-run" in capsys.readouterr().err


def test_other_errors_of_the_system_keep_their_traceback() -> None:
    with pytest.raises(OSError, match="of another"):
        run("ls", raising(OSError(errno.ENOSPC, "of another")), [])


@pytest.mark.parametrize("variable", [None, "OMP_NUM_THREADS", "MKL_NUM_THREADS"])
@pytest.mark.parametrize("own_process", [False, True])
def test_threads_are_chosen_only_where_nobody_has_set_them(
    own_process: bool, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, "3")
    shares = []
    assert run("show", lambda _: shares.append(share_of_cores()), [], own_process=own_process) == 0
    assert shares == [cores() if own_process and variable is None else None]
    assert share_of_cores() is None


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "protoat", "--version"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == f"protoat {__version__}\n"


def test_a_program_that_calls_the_command_line_keeps_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    owned = []
    monkeypatch.setattr("protoat.cli.outcome.run", lambda *_, own_process: owned.append(own_process) or 0)
    monkeypatch.setattr("sys.argv", ["protoat", "ls"])
    assert cli.main() == cli.main(["ls"]) == 0
    assert owned == [True, False]
