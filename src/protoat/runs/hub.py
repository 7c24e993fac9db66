"""Runs on the Hugging Face Hub, by references such as ``hf://user/name`` and ``hf://user/name@revision``.

Only known files of a run folder are fetched, each within a limit of size; a manifest has to name them, with the
checksums that they have. A folder appears by rename, whole or not at all.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from protoat.errors import DiskError, UserError, on_disk
from protoat.names import printable
from protoat.storage.files import check_no_links, remove, rename
from protoat.storage.manifest import MANIFEST, checksums, sha256_of
from protoat.storage.parsing import MOST_BYTES
from protoat.storage.path_checks import check_folder
from protoat.storage.scratch import scratch

logger = logging.getLogger(__name__)

RECORDS = ("recipe.yaml", "run.json", "metrics.jsonl", "best.json", "evaluation.json", "audit.json", "probe.json")
WEIGHTS = ("best.safetensors", "last.safetensors")
REQUIRED = (MANIFEST, "recipe.yaml", "run.json")
_MOST_WEIGHTS = 4 * 2**30  # bytes
COMMIT = re.compile(r"[0-9a-f]{40}")
# A path of the command line has lost a slash by the time it is read as one.
_REFERENCE = re.compile(r"(?:hf:/{1,2})?(\w[\w.-]{0,95}/\w[\w.-]{0,95})(?:@(\w[\w./-]{0,255}))?", re.ASCII)
_OF_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)
_LIBRARIES = {"huggingface_hub", "hf_xet", "httpx", "httpx2", "requests"}  # httpx2 took the place of httpx


class Reference(NamedTuple):
    """A repository of models on the Hub, and of which revision.

    Attributes:
        repo: ``user/name``.
        revision: branch, tag or commit; None is the head of the main branch.
    """

    repo: str
    revision: str | None = None

    @classmethod
    def of(cls, text: str) -> Reference:
        """Reads ``user/name``, ``hf://user/name`` or either with ``@revision``.

        Raises:
            ValueError: it is none of these.

        >>> Reference.of("hf://user/name@v1.0")
        Reference(repo='user/name', revision='v1.0')
        >>> Reference.of("hf://name")
        Traceback (most recent call last):
        protoat.errors.UserError: 'hf://name' names no repository of the Hub; write user/name, or user/name@revision
        """
        found = _REFERENCE.fullmatch(text)
        if found is None:
            raise UserError(f"{text!r} names no repository of the Hub; write user/name, or user/name@revision")
        return cls(*found.groups())

    def __str__(self) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision else "")


class Listing(NamedTuple):
    """What a revision of a repository holds.

    Attributes:
        commit: its hash.
        sizes: bytes of each file, by name; None where the Hub does not say.
        private: whether only those whom its owner lets may read it.
    """

    commit: str
    sizes: Mapping[str, int | None]
    private: bool


def listing(reference: Reference) -> Listing:
    """What the Hub says that a revision holds.

    Raises:
        ValueError: there is no such repository or revision, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    with asking(reference):
        found = HfApi().model_info(reference.repo, revision=reference.revision, files_metadata=True)
    if not COMMIT.fullmatch(found.sha or ""):
        raise UserError(
            f"{reference}: the Hub answered {printable(repr(found.sha))[:60]}, expected the hash of a commit"
        )
    sizes = {file.rfilename: file.size for file in found.siblings or ()}
    return Listing(str(found.sha), sizes, private=bool(found.private))


class UnreachableError(UserError):
    """The Hub did not answer, or not as it should."""


@contextmanager
def asking(reference: Reference, *, to: str = "read", folder: Path | None = None) -> Iterator[None]:
    """Turns what goes wrong with the Hub meanwhile into one line; defects of the program pass.

    Args:
        reference: to what is asked for.
        to: what is done to it, read or write.
        folder: where files are written meanwhile.

    Raises:
        ValueError: says what to do.
        DiskError: a file here cannot be written, or read.
    """
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except UserError:
        raise
    except RepositoryNotFoundError as error:
        raise UserError(
            f"there is no model {reference.repo} on the Hub that you may read; if it is private or gated, log in: "
            "hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{reference.repo} on the Hub has no revision {reference.revision!r}") from error
    except Exception as error:  # of the network, with classes of a library below the library
        if isinstance(error, OSError) and error.errno in _OF_DISK:
            what = f"write {folder}" if folder else f"read or write {error.filename or 'a file of huggingface_hub'}"
            raise DiskError(f"could not {what}: {error.strerror or error}") from error
        if not _is_of_network(error):
            raise
        chain = list(_chain(error))
        status = {each.response.status_code for each in chain if isinstance(each, HfHubHTTPError)}
        if status & {401, 403}:
            raise UserError(
                f"the Hub does not let you at {reference.repo} (HTTP {max(status)}); log in with a token that may "
                f"{to} it: hf auth login"
            ) from error
        reason = printable(" ".join(str(chain[-1]).split()))[:200] or type(chain[-1]).__name__
        raise UnreachableError(f"the Hub could not be asked for {reference} ({reason})") from error


def _is_of_network(error: Exception) -> bool:
    """Whether it is an error of the Hub, of the way there or of what came from there, rather than a defect of ours."""
    homes = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    of_xet = type(error) is RuntimeError  # which hf_xet raises itself, of the kind alone
    return of_xet or isinstance(error, OSError | json.JSONDecodeError) or bool(homes & _LIBRARIES)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__


def hub_folder(name: str) -> Path:
    """The folder of a run of the Hub, in the cache, with what has been measured of it since.

    The Hub is asked which commit the revision is; a full hash of one that is in the cache needs no network.

    Args:
        name: ``hf://user/name``, or with ``@revision``.

    Raises:
        ValueError: no such repository or revision; it holds no run, or a damaged one; the Hub cannot be reached.
        DiskError: the cache cannot be written.
    """
    from protoat.data import cache_folder  # torch takes seconds to import, and names of other runs are found without

    reference = Reference.of(name)
    cache = cache_folder().parent / "hub"
    commit = reference.revision or ""
    if not (COMMIT.fullmatch(commit) and (cache / commit / reference.repo).is_dir()):
        try:
            there = listing(reference)
        except UnreachableError as error:
            known = sorted((path.stat().st_mtime, path.parts[-3]) for path in cache.glob(f"*/{reference.repo}"))
            hint = f"; without it, there is hf://{reference.repo}@{known[-1][1]}" if known else ""
            raise UserError(f"{error}{hint}") from error
        commit = there.commit
        if not (cache / commit / reference.repo).is_dir():
            _fetch(reference, there, cache / commit / reference.repo)
    return cache / commit / reference.repo


def pull(reference: Reference, folder: Path) -> None:
    """Fetches a run of the Hub into a folder of its own.

    Args:
        reference: to the run.
        folder: is made.

    Raises:
        ValueError: something is there already; see also `hub_folder`.
        DiskError: it cannot be written.
    """
    taken = f"{folder} is there already; choose another folder, or remove this one"
    if os.path.lexists(folder):
        raise UserError(taken)
    check_folder(folder)
    if not _fetch(reference, listing(reference), folder):
        raise UserError(taken)  # since: another process has put a run there, which may be any


def _fetch(reference: Reference, there: Listing, folder: Path) -> bool:
    """Makes the folder of a run, whole or not at all; False where another process was first."""
    from huggingface_hub import HfApi

    names = [name for name in (MANIFEST, *RECORDS, *WEIGHTS) if name in there.sizes]
    if missing := [name for name in REQUIRED if name not in names]:
        raise UserError(f"{reference} holds no run: no {' and no '.join(missing)}; protoat push makes one that does")
    total = 0
    for name in names:
        size, allowed = there.sizes[name], _MOST_WEIGHTS if name in WEIGHTS else MOST_BYTES
        if size is None or size > allowed:
            has = "a size that the Hub does not say" if size is None else f"{size} bytes"
            raise UserError(f"{reference}: {name} has {has}, and {allowed} are allowed")
        total += size
    logger.info("fetching %s, %.1f MB", reference, total / 1e6)
    with on_disk(f"write {folder}"), scratch(folder) as part:
        if os.path.lexists(folder):
            return False
        with asking(reference, folder=folder):
            for name in names:
                HfApi().hf_hub_download(reference.repo, name, revision=there.commit, local_dir=part)
        remove(part / ".cache", within=part)  # the library's own notes on what it has fetched
        _check(reference, part, names)
        rename(part, folder.name)
        return True


def _check(reference: Reference, folder: Path, names: list[str]) -> None:
    """Compares what was fetched with its manifest.

    Raises:
        ValueError: a file differs, or is not in the manifest.
    """
    check_no_links(folder)
    try:
        listed = checksums(folder)
    except UserError as error:
        raise UserError(f"{reference}: {MANIFEST} is damaged; nothing was kept") from error
    for name in names:
        if name != MANIFEST and sha256_of(folder / name) not in listed.get(name, ()):
            raise UserError(f"{reference}: {name} has not the checksum that its {MANIFEST} says; nothing was kept")
