"""A kill that is aimed at a file operation: before it, after it, or in the middle of what it writes."""

from __future__ import annotations

import builtins
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn

__all__ = ["How", "strike"]

How = Literal["before", "half", "after"]
_Act = Callable[[], Any]
_ON_PATHS = ("rename", "replace", "unlink", "remove", "mkdir", "rmdir", "link", "symlink", "truncate", "chmod", "utime")
_ON_FILES = ("fsync", "fdatasync", "ftruncate", "fchmod")


def strike(folder: Path, at: Callable[[int], bool], how: How, log: Path | None = None) -> None:
    """From now on this process kills itself at the first operation below `folder` for which `at` says so.

    Operations are those of `os` that change files, opening a file to write, and each write; reading counts for nothing.

    Args:
        at: takes the number of the operation, counted from 1.
        how: where; ``half`` writes half of the bytes first, and is ``after`` for what writes none.
        log: each operation becomes a line of this file.
    """
    _Strike(folder.resolve(), at, how, log).patch()


class _Strike:
    def __init__(self, folder: Path, at: Callable[[int], bool], how: How, log: Path | None) -> None:
        self.folder, self.at, self.how, self.count = str(folder), at, how, 0
        self.log = None if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        self.write = os.write

    def patch(self) -> None:
        for name in _ON_PATHS:
            setattr(os, name, self._on_path(name, getattr(os, name)))
        for name in _ON_FILES:
            setattr(os, name, self._on_file(name, getattr(os, name)))
        os.write = self._os_write(os.write)  # type: ignore[assignment]
        os.open = self._os_open(os.open)
        builtins.open = io.open = self._open(io.open)  # type: ignore[assignment]

    def around(self, name: str, where: str, act: _Act, half: _Act | None = None, whole: _Act | None = None) -> Any:
        """Does an operation; at the one to be killed at, none of it, `half`, or `whole` until the system has it."""
        if not where.startswith(self.folder):
            return act()
        self.count += 1
        if self.log is not None:
            self.write(self.log, f"{name} {where}\n".encode())
        if not self.at(self.count):
            return act()
        if self.how == "half" and half is not None:
            half()
        elif self.how != "before":
            (whole or act)()
        return _die()

    def _on_path(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(path: Any, *args: Any, **options: Any) -> Any:
            within = options.get("dir_fd", options.get("src_dir_fd"))
            return self.around(name, _place(path, within), lambda: act(path, *args, **options))

        return wrapped

    def _on_file(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(file: Any, *args: Any) -> Any:
            return self.around(name, _place(file), lambda: act(file, *args))

        return wrapped

    def _os_write(self, act: Callable[..., int]) -> Callable[..., int]:
        def wrapped(file: int, content: Any) -> int:
            part = memoryview(content)[: len(content) // 2]
            return int(self.around("write", _place(file), lambda: act(file, content), lambda: act(file, part)))

        return wrapped

    def _os_open(self, act: Callable[..., int]) -> Callable[..., int]:
        def wrapped(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            def opened() -> int:
                return act(path, flags, mode, dir_fd=dir_fd)

            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return opened()
            return int(self.around("open", _place(path, dir_fd), opened))

        return wrapped

    def _open(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            if not set(mode) & set("wax+"):
                return act(path, mode, *args, **options)
            where = _place(path)
            if isinstance(path, int):
                return _File(self, where, act(path, mode, *args, **options))
            return self.around("open", where, lambda: _File(self, where, act(path, mode, *args, **options)))

        return wrapped


class _File:
    """A file opened to write, whose writes count."""

    def __init__(self, strike: _Strike, where: str, file: Any) -> None:
        self._strike, self._where, self._file = strike, where, file

    def write(self, content: Any) -> Any:
        def half() -> None:
            self._file.write(content[: len(content) // 2])
            self._file.flush()

        def whole() -> None:
            self._file.write(content)
            self._file.flush()

        return self._strike.around("write", self._where, lambda: self._file.write(content), half, whole)

    def __enter__(self) -> _File:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._file.__exit__(*error)

    def __iter__(self) -> Any:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _place(path: Any, within: int | None = None) -> str:
    """Where a path or a descriptor leads, without following a link at its end."""
    if isinstance(path, int):
        return str(Path(f"/proc/self/fd/{path}").readlink())
    base = Path.cwd() if within is None else Path(f"/proc/self/fd/{within}").readlink()
    return os.path.normpath(base / os.fsdecode(path))


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a killed process went on")
