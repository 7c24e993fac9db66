"""Safe file access: atomic writes, reads within limits of size, no links followed.

A run folder may come from anywhere. So each name below it is looked up in an open folder, where nobody can put a link
in its place meanwhile, and what is no regular file is refused. How the folder itself is reached is the user's choice:
``runs`` may well be a link to a larger disk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from protoat.errors import MissingFileError, UserError

# Elsewhere (Windows) names are joined to the path of the folder, and links are looked for first.
_HANDLES = {os.open, os.stat, os.mkdir, os.rename, os.unlink, os.rmdir} <= os.supports_dir_fd
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # opening a pipe must not wait for its other end
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)


class Folder:
    """An open folder. Its methods take names of what lies in it, and follow no links."""

    def __init__(self, path: Path, handle: int | None) -> None:
        self.path = path
        self._handle = handle

    def _at(self, name: str) -> str:
        if name in ("", ".", "..") or Path(name).name != name or "\0" in name:
            raise UserError(f"{name!r} is no name of a file in {self.path}")
        return name if self._handle is not None else str(self.path / name)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the handle back."""
        if self._handle is not None:
            os.close(self._handle)

    def status(self, name: str) -> os.stat_result | None:
        """Of the file, folder or link of this name; None where there is none."""
        try:
            return os.stat(self._at(name), dir_fd=self._handle, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """Of everything in it, in order."""
        return sorted(os.listdir(self.path if self._handle is None else self._handle))  # noqa: PTH208 - of a handle

    def open(self, name: str, flags: int) -> int:
        """A descriptor of a regular file, made where `flags` say so.

        Raises:
            ValueError: it is a link, a folder, a pipe or a device.
        """
        self.check(name)
        descriptor = os.open(self._at(name), flags | _NO_LINK | _AT_ONCE, 0o666, dir_fd=self._handle)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UserError(f"{self.path / name} is no regular file")
        return descriptor

    def write_new(self, name: str, content: bytes) -> None:
        """Makes a file that was not there, and waits until the disk has it."""
        _fill(self.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL), content)

    def check(self, name: str) -> None:
        """Refuses anything but a regular file, or nothing, of this name.

        Raises:
            ValueError: says what is there.
        """
        found = self.status(name)
        if found is not None and not stat.S_ISREG(found.st_mode):
            raise UserError(f"{self.path / name} is {_kind(found)}, expected a regular file; move it away")

    def enter(self, name: str, *, make: bool = False) -> Folder:
        """A folder in this one.

        Raises:
            ValueError: it is a link or a file.
        """
        found = self.status(name)
        if found is None and make:
            os.mkdir(self._at(name), dir_fd=self._handle)
        elif found is not None and not stat.S_ISDIR(found.st_mode):
            raise UserError(f"{self.path / name} is {_kind(found)}, expected a folder; move it away")
        handle = None if self._handle is None else os.open(name, _DIRECTORY | _NO_LINK, dir_fd=self._handle)
        return Folder(self.path / name, handle)

    def rename(self, old: str, new: str) -> None:
        """Gives a file or folder in it another name; a file of that name is replaced."""
        os.replace(self._at(old), self._at(new), src_dir_fd=self._handle, dst_dir_fd=self._handle)

    def remove(self, name: str) -> None:
        """Removes a file, a folder with all it holds, or a link but not what it leads to; nothing where none is."""
        found = self.status(name)
        if found is None:
            return
        if stat.S_ISDIR(found.st_mode):
            with self.enter(name) as inner:
                for each in inner.names():
                    inner.remove(each)
            os.rmdir(self._at(name), dir_fd=self._handle)
        else:
            os.unlink(self._at(name), dir_fd=self._handle)

    def sync(self) -> None:
        """Waits until the disk has its names, where the system can do so."""
        if self._handle is not None:
            os.fsync(self._handle)


def _kind(found: os.stat_result) -> str:
    if stat.S_ISLNK(found.st_mode):
        return "a link, and links are not followed here"
    return "a folder" if stat.S_ISDIR(found.st_mode) else "a file" if stat.S_ISREG(found.st_mode) else "no regular file"


@contextmanager
def open_folder(path: Path, *, within: Path | None = None, make: bool = False) -> Iterator[Folder]:
    """Opens a folder.

    Args:
        path: of the folder.
        within: the folder that the user named, such as a run folder, of which `path` is a part or the whole: below it
            no link is followed. Default: `path` itself.
        make: make it where it is not there.

    Raises:
        ValueError: a link or a file lies on the way.
        OSError: it is not there or cannot be opened.
    """
    root = path if within is None else within
    inner = absolute(path)
    if not inner.is_relative_to(absolute(root)):
        raise UserError(f"{inner} does not lie in {absolute(root)}")
    if make:
        os.makedirs(root, exist_ok=True)  # noqa: PTH103 - all that writes here goes through `os`
    folder = Folder(root, os.open(root, _DIRECTORY) if _HANDLES else None)
    try:
        for name in inner.relative_to(absolute(root)).parts:
            outer, folder = folder, folder.enter(name, make=make)
            outer.close()
        yield folder
    finally:
        folder.close()


def absolute(path: Path) -> Path:
    """The same place from the root on; links stay in it as they are, unless ``..`` comes after them.

    >>> absolute(Path("/nowhere/./run"))
    PosixPath('/nowhere/run')
    """
    if ".." not in path.parts:
        return Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would follow links
    last = len(path.parts) - path.parts[::-1].index("..")
    return Path(os.path.realpath(Path(*path.parts[:last]))).joinpath(*path.parts[last:])


def make_folder(path: Path, *, within: Path | None = None) -> None:
    """Makes a folder and those above it, where they are not there; see `open_folder`."""
    with open_folder(path, within=within, make=True):
        pass


def read_bytes(path: Path, *, limit: int, within: Path | None = None) -> bytes:
    """What a regular file holds.

    Args:
        path: of the file.
        limit: bytes that are read at most.
        within: see `open_folder`; default: the folder of the file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it cannot be read, is longer, or is a link, a folder, a pipe or a device.
    """
    with open_to_read(path, within=within) as file:
        try:
            content = file.read(limit + 1)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > limit:
        raise UserError(f"{path} is longer than {limit} bytes, so it is not read")
    return content


@contextmanager
def open_to_read(path: Path, *, within: Path | None = None) -> Iterator[BinaryIO]:
    """A regular file, open to be read in parts.

    Raises:
        FileNotFoundError, ValueError: see `read_bytes`.
    """
    try:
        with open_folder(path.parent, within=within) as folder:
            descriptor = folder.open(path.name, os.O_RDONLY)
    except FileNotFoundError:
        raise MissingFileError(f"there is no file {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    with os.fdopen(descriptor, "rb") as file:
        yield file


def write(path: Path, content: bytes, *, within: Path | None = None) -> None:
    """Writes beside `path` and renames, so that a reader sees the old file or the new one, whole and on the disk.

    Args:
        path: of the file; folders above it are made.
        content: the whole file.
        within: see `open_folder`; default: the folder of the file.

    Raises:
        ValueError: a link or something else that is no regular file is in the way; it is untouched.
        OSError: it cannot be written; what was there before is untouched.
    """
    partial = f".{path.name}.partial"
    with open_folder(path.parent, within=within, make=True) as folder:
        folder.check(path.name)
        folder.check(partial)
        folder.remove(partial)  # what a kill left
        try:
            folder.write_new(partial, content)
            folder.rename(partial, path.name)
        except BaseException:
            folder.remove(partial)
            raise
        folder.sync()


def append(path: Path, content: bytes, *, within: Path | None = None) -> None:
    """Adds to the end of a file, which is made where it is not there, and waits until the disk has it.

    Raises:
        ValueError, OSError: see `write`.
    """
    with open_folder(path.parent, within=within) as folder:
        _fill(folder.open(path.name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), content)


def _fill(descriptor: int, content: bytes) -> None:
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(path: Path, name: str, *, within: Path | None = None) -> None:
    """Gives a file or folder another name in the same folder, which is on the disk at return."""
    with open_folder(path.parent, within=within) as folder:
        folder.rename(path.name, name)
        folder.sync()


def remove(path: Path, *, within: Path | None = None) -> None:
    """Removes a file or a folder with all it holds, but nothing that a link leads to; nothing where none is."""
    with suppress(FileNotFoundError), open_folder(path.parent, within=within) as folder:
        folder.remove(path.name)


def check_no_links(path: Path, *, within: Path | None = None) -> None:
    """Refuses a folder that others will write into and that holds a link, or is one; it need not be there.

    Raises:
        ValueError: names the link.
    """

    def look(folder: Folder) -> None:
        for name in folder.names():
            found = folder.status(name)
            if found is not None and stat.S_ISDIR(found.st_mode):
                with folder.enter(name) as inner:
                    look(inner)
            else:
                folder.check(name)

    with suppress(FileNotFoundError), open_folder(path, within=within) as folder:
        look(folder)
