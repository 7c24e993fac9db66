"""Runs on the Hugging Face Hub, by references such as ``hf://user/name`` and ``hf://user/name@revision``.

Only known files of a run folder are fetched, each within a limit of size; a manifest has to name them, with the
checksums that they have. A folder appears by rename, whole or not at all.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from protoat.errors import UserError, on_disk
from protoat.runs.hub_api import COMMIT, Listing, Reference, UnreachableError, asking, listing
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
