"""What folders hold: all of it, or all but times, to tell whether two runs are the same bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

__all__ = ["differences", "results", "tree"]

# What no two runs share: times, and the list of starts of a run.
TIMES = ("seconds", "sessions", "started", "measured", "commit")
# Logs and locks, and batches that a measurement no longer needs once it has ended.
_NO_RESULTS = ("tensorboard", "evaluation.partial", ".lock", ".locks")


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
        if path.is_dir() or any(part in _NO_RESULTS for part in parts):
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
        if path.name == "manifest.json":
            return json.dumps(_judged(json.loads(raw)["files"], path.parent), sort_keys=True)
        if path.name == "state.json":  # of a checkpoint: its own checksum is of times, too
            return json.dumps(_timeless(json.loads(raw)["state"]))
        if path.suffix == ".json":
            return json.dumps(_timeless(json.loads(raw)))
    except (ValueError, RecursionError):
        pass
    return hashlib.sha256(raw).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [_timeless(each) for each in value]
    return value


def _judged(checksums: dict[str, list[str]], folder: Path) -> dict[str, bool]:
    """Whether a manifest has the one right checksum, for each file: the checksum itself is of times, too."""
    files = {name: folder / name for name in checksums}
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if path.is_file()}
    return {name: known == [digests.get(name)] for name, known in checksums.items()}
