"""The zoo: small trained runs that come with the package, by names such as ``zoo:digits-2``.

A run is copied into the cache when it is first asked for, since commands write their records into the folder of a run.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

from protoat.errors import UserError
from protoat.names import nearest
from protoat.storage.files import remove, rename, write
from protoat.storage.reading import read_bytes

PREFIX = "zoo:"
_SHIPPED = Path(__file__).parents[1] / "zoo"
_LARGEST = 2**20  # bytes of a file


def zoo_names() -> list[str]:
    """The runs there are.

    >>> "zoo:digits-2" in zoo_names()
    True
    """
    return sorted(f"{PREFIX}{path.parent.name}" for path in _SHIPPED.glob("*/recipe.yaml"))


def zoo_folder(name: str) -> Path:
    """The folder of a run of the zoo, in the cache, with what has been measured of it since.

    Args:
        name: ``zoo:digits-2``.

    Raises:
        ValueError: there is none of this name; or the cache cannot be written.
    """
    if name not in zoo_names():
        raise UserError(f"{name!r} is not in the zoo; {nearest(name, zoo_names())}")
    from protoat.data import cache_folder  # torch takes seconds to import, and names of other runs are found without

    shipped = _SHIPPED / name.removeprefix(PREFIX)
    contents = {path.name: read_bytes(path, limit=_LARGEST) for path in sorted(shipped.iterdir()) if path.is_file()}
    version = sha256(contents["manifest.json"]).hexdigest()[:8]
    folder = cache_folder().parent / "zoo" / version / shipped.name
    if not folder.is_dir():
        try:
            _copy(contents, folder)
        except OSError as error:
            raise UserError(
                f"{name} cannot be copied to {folder} ({error.strerror or error}); set PROTOAT_CACHE to a folder with "
                "room"
            ) from error
    return folder


def zoo_name(folder: Path) -> str | None:
    """The name of a run by its folder in the cache; None of one that is not of the zoo.

    >>> zoo_name(zoo_folder("zoo:digits-2")), zoo_name(Path("runs/ours"))
    ('zoo:digits-2', None)
    """
    from protoat.data import cache_folder  # as above

    return f"{PREFIX}{folder.name}" if folder.parent.parent == cache_folder().parent / "zoo" else None


def _copy(contents: dict[str, bytes], folder: Path) -> None:
    """Writes beside the final place and renames, so that no process ever sees half a run."""
    partial = folder.with_name(f".{folder.name}-{os.getpid()}.partial")
    remove(partial)
    for name, content in contents.items():
        write(partial / name, content)
    try:
        rename(partial, folder.name)
    except OSError:
        remove(partial)
        if not folder.is_dir():  # else another process was first
            raise
