"""What folders hold: all of it, or all but times, to tell whether two runs are the same bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

__all__ = ["IGNORED", "differences", "results", "tree"]

# What no two runs share: times, and the list of starts of a run.
TIMES = ("seconds", "sessions", "started", "commit")
IGNORED = f"{', '.join(TIMES)} in records; the checksums of such records; tensorboard/; locks"
_LOCKS = (".lock", ".locks")


def tree(folder: Path) -> dict[str, str]:
    """Every path below a folder, links not followed, with kind, size and content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            told = f"link to {path.readlink()}"
        elif path.is_dir():
            told = "folder"
        elif path.is_file():
            told = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            told = f"special {path.lstat().st_mode:o}"
        found[os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace")] = told
    return found


def results(folder: Path) -> dict[str, str]:
    """What a run folder or a store says, without times: files of results by path, as text or as a digest."""
    found = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_dir() or "tensorboard" in parts or any(part in _LOCKS for part in parts):
            continue
        found["/".join(parts)] = _content(path)
    return found


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """What differs, a line each."""
    lines = [f"{name} is missing" for name in expected.keys() - found.keys()]
    lines += [f"{name} is left over" for name in found.keys() - expected.keys()]
    lines += [f"{name} differs" for name in expected.keys() & found.keys() if expected[name] != found[name]]
    return sorted(lines)


def _content(path: Path) -> str:
    raw = path.read_bytes()
    try:
        if path.suffix == ".jsonl":
            return "\n".join(json.dumps(_timeless(json.loads(line))) for line in raw.decode().splitlines())
        if path.name == _MANIFEST:
            return json.dumps(_files_without_times(json.loads(raw)), sort_keys=True)
        if path.name == "state.json":  # of a checkpoint: its own checksum is of times, too
            return json.dumps(_timeless(json.loads(raw)["state"]))
        if path.suffix == ".json":
            return json.dumps(_timeless(json.loads(raw)))
    except (ValueError, RecursionError):
        pass
    return hashlib.sha256(raw).hexdigest()


_MANIFEST = "manifest.json"


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [_timeless(each) for each in value]
    return value


def _files_without_times(value: Any) -> Any:
    """A manifest, with the checksums of records with times left out."""
    if isinstance(value, dict):
        return {
            key: _files_without_times(each)
            if isinstance(each, dict) or not key.endswith((".json", ".jsonl"))
            else "..."
            for key, each in value.items()
        }
    return value
