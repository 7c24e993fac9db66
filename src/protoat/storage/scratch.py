"""A temporary path beside a file or folder, which another library writes and which then replaces it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protoat.storage.files import remove


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A free path in the folder of `path`, to be written to and then renamed, so that nobody ever sees half of it.

    One process at a time has it. What is there at the end goes, and what a killed process left has gone before.

    Raises:
        DiskError: the folder cannot be written.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, scratch(Path(folder) / "set") as part:
    ...     _ = part.write_text("whole")
    ...     part.rename(Path(folder) / "set").name
    'set'
    """
    from protoat.storage.locks import locked  # loads Accelerate, which who only reads data does without

    part = path.parent / f".{path.name}.partial"
    with locked(path.parent / f".{path.name}.lock", str(path), wait=True, again=False):
        remove(part)
        try:
            yield part
        finally:
            remove(part)
