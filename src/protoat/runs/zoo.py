"""The zoo: small trained runs that come with the package, by names such as ``zoo:digits-2``.

A run is copied into the cache when it is first asked for, since commands write their records into the folder of a run.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from protoat.errors import DiskError, UserError
from protoat.names import nearest
from protoat.storage.files import read_bytes, rename, write
from protoat.storage.scratch import scratch

_SHIPPED = Path(__file__).parents[1] / "zoo"
_LARGEST = 2**20  # bytes of a file


def zoo_names() -> list[str]:
    """The runs there are.

    >>> "zoo:digits-2" in zoo_names()
    True
    """
    return sorted(f"zoo:{path.parent.name}" for path in _SHIPPED.glob("*/recipe.yaml"))


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

    shipped = _SHIPPED / name.removeprefix("zoo:")
    contents = {path.name: read_bytes(path, limit=_LARGEST) for path in sorted(shipped.iterdir()) if path.is_file()}
    version = sha256(contents["manifest.json"]).hexdigest()[:8]
    folder = cache_folder().parent / "zoo" / version / shipped.name
    if folder.is_dir():
        return folder
    try:
        with scratch(folder) as part:
            for file, content in contents.items():
                write(part / file, content)
            if not folder.is_dir():  # else another process was first
                rename(part, folder.name)
    except (OSError, DiskError) as error:
        raise UserError(
            f"{name} cannot be copied to {folder} ({error}); set PROTOAT_CACHE to a folder with room"
        ) from error
    return folder
