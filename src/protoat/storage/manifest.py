"""``manifest.json``: checksums of the files of a record, right after a kill at any moment.

While a file is being replaced the manifest names the checksums of the old and of the new one; afterwards that of the
new one alone. A file that the manifest does not name is of an earlier version, and nothing is said of it; one that it
names and that is not there was taken away on purpose, as weights are from records that are published.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from protoat.errors import UserError
from protoat.storage.files import append, open_to_read, read_bytes, rename, write
from protoat.storage.parsing import MOST_BYTES, parse_json

MANIFEST = "manifest.json"
_TRIES = 5  # a reader may come between the two writes of another process


def sha256_of(path: Path, *, within: Path | None = None) -> str:
    """SHA-256 of a regular file, in hex.

    Raises:
        FileNotFoundError, ValueError: see `read_bytes`.
    """
    found = sha256()
    with open_to_read(path, within=within) as file:
        while part := file.read(2**20):
            found.update(part)
    return found.hexdigest()


def checksums(folder: Path) -> dict[str, list[str]]:
    """SHA-256 of the files of a folder, by name: of each the one it has, or those it may have while it is replaced.

    Raises:
        ValueError: the manifest itself is damaged.
    """
    path = folder / MANIFEST
    try:
        content = read_bytes(path, limit=MOST_BYTES)
    except FileNotFoundError:
        return {}
    try:
        return _listed(parse_json(content))
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: {error}; put it back, or remove it to go on without checksums of what lies beside it"
        ) from error


def is_manifest(folder: Path) -> bool:
    """Whether a folder has a manifest of ours."""
    try:
        return bool(checksums(folder))
    except ValueError:
        return False


def check(path: Path, digest: str) -> None:
    """Compares the SHA-256 that a file has with the manifest beside it, where that names it.

    Raises:
        ValueError: they differ.
    """
    known = checksums(path.parent).get(path.name)
    if known is not None and digest not in known:
        raise UserError(
            f"{path} is damaged or was changed by hand: its SHA-256 is {digest[:12]}, and {MANIFEST} beside it says "
            f"{known[-1][:12]}"
        )


def read_record_bytes(path: Path, *, lines: bool = False) -> bytes:
    """What a file of a record holds, compared with the manifest beside it.

    Args:
        path: of the file.
        lines: leave out what a kill has left of a last line.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged, or no file; see also `protoat.storage.files.read_bytes`.
    """
    for tries in range(1, _TRIES + 1):
        content = read_bytes(path, limit=MOST_BYTES)
        content = whole_lines(content) if lines else content
        try:
            check(path, sha256(content).hexdigest())
            break
        except ValueError:
            if tries == _TRIES:
                raise
    return content


def whole_lines(content: bytes) -> bytes:
    """Without a last line that has no end.

    >>> whole_lines(b"one\\ntw")
    b'one\\n'
    """
    return content[: content.rfind(b"\n") + 1]


def write_record(path: Path, content: bytes, *, within: Path | None = None) -> None:
    """Writes a file of a record, and its checksum; see `write_records`."""
    write_records(path.parent, {path.name: content}, within=within)


def write_records(folder: Path, contents: Mapping[str, bytes], *, within: Path | None = None) -> None:
    """Writes files of a record, each whole or not at all, and their checksums.

    Args:
        folder: of the files; made where it is not there.
        contents: by name.
        within: see `protoat.storage.files.open_folder`.

    Raises:
        ValueError, OSError: see `protoat.storage.files.write`; or the manifest is damaged.
    """
    listed = checksums(folder)
    new = {name: sha256(content).hexdigest() for name, content in contents.items()}
    before = {name: [*_present(folder / name, listed), new[name]] for name in contents}
    _write(folder, {**listed, **before}, within)
    for name, content in contents.items():
        write(folder / name, content, within=within)
    after = {name: [digest] for name, digest in new.items()}
    if after != before:
        _write(folder, {**listed, **after}, within)


def rename_record(path: Path, name: str, *, within: Path | None = None) -> None:
    """Gives a file of a record another name in the same folder; a file of that name is replaced.

    Raises:
        ValueError, OSError: see `write_records`.
    """
    listed = checksums(path.parent)
    if path.name in listed:
        target = [*_present(path.with_name(name), listed), *listed[path.name]]
        _write(path.parent, {**listed, name: target}, within)
    rename(path, name, within=within)
    if path.name in listed:
        moved = {**listed, name: listed[path.name]}
        del moved[path.name]
        _write(path.parent, moved, within)


class Log:
    """A file of a record that grows line by line.

    While a line is added the manifest names the file without it and with it.

    Args:
        path: of the file.
        content: what it begins with.

    Raises:
        ValueError, OSError: see `write_records`.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        self._sum = sha256(content)
        write_record(path, content)

    def append(self, line: bytes) -> None:
        """Adds a line, its end included."""
        longer = self._sum.copy()
        longer.update(line)
        self._list([self._sum.hexdigest(), longer.hexdigest()])
        append(self.path, line)
        self._list([longer.hexdigest()])
        self._sum = longer

    def _list(self, digests: list[str]) -> None:
        _write(self.path.parent, {**checksums(self.path.parent), self.path.name: digests}, None)


def _present(path: Path, listed: Mapping[str, Sequence[str]]) -> list[str]:
    """The checksums that a file about to be replaced may have: those listed, or of one that never was, its own."""
    if path.name in listed:
        return list(listed[path.name])
    try:
        return [sha256_of(path)]
    except FileNotFoundError:
        return []


def manifest_of(contents: Mapping[str, bytes]) -> bytes:
    """The manifest of files that are kept elsewhere, such as on a server.

    Args:
        contents: by name.
    """
    return _content({name: [sha256(content).hexdigest()] for name, content in contents.items()})


def _write(folder: Path, listed: Mapping[str, Sequence[str]], within: Path | None) -> None:
    write(folder / MANIFEST, _content(listed), within=within)


def _content(listed: Mapping[str, Sequence[str]]) -> bytes:
    known = {name: list(dict.fromkeys(digests)) for name, digests in sorted(listed.items())}
    return json.dumps({"sha256": _own(known), "files": known}, indent=1).encode()


def _own(listed: Mapping[str, Sequence[str]]) -> str:
    """The checksum of the manifest itself."""
    return sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()


def _listed(content: object) -> dict[str, list[str]]:
    """The files that a manifest names.

    Raises:
        ValueError: it does not agree with its own checksum.
    """
    content = content if isinstance(content, dict) else {}
    listed = content.get("files")
    if not isinstance(listed, dict) or content.get("sha256") != _own(listed):
        raise UserError("it does not agree with its own checksum")
    if any(not isinstance(digests, list) or not digests for digests in listed.values()):
        raise UserError("it has no checksums of some file")
    return listed
