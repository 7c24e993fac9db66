"""Records that hold all that one of their kind must, and files changed as a version of ours would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from protoat.storage.manifest import write_record


def edit(path: Path, content: str | dict[str, Any]) -> None:
    """Changes a file of a record together with its checksum."""
    text = content if isinstance(content, str) else json.dumps(content)
    write_record(path, text.encode())


def attacked(correct: int, total: int, **parameters: Any) -> dict[str, Any]:
    """What an ``evaluation.json`` has of an attack, on images of one class and mode."""
    counts = {"correct": correct, "total": total}
    return {
        **counts,
        "per_class": {"0": counts},
        "per_mode": {"0": counts},
        "parameters": {"attack": None, **parameters},
        "seconds": 1.0,
        "outcomes": "1" * correct + "0" * (total - correct),
    }


def epochs(*numbers: int, **more: Any) -> str:
    """Lines of a ``metrics.jsonl``."""
    lines = [{"epoch": number, "total": 1.0, "lr": 0.1, "seconds": 1.0, **more} for number in numbers]
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def checked(number: str, status: str, **more: Any) -> dict[str, Any]:
    """What an ``audit.json`` has of a check."""
    return {"id": number, "title": number, "status": status, "figures": {}, "reason": "", **more}


def weights(path: Path, value: float = 0.0) -> None:
    """Writes a file that is a whole one of weights."""
    save_file({"model.weight": torch.full((2,), value)}, path)


def with_correct(entry: dict[str, Any], correct: int) -> dict[str, Any]:
    """The same attack where the first so many images stay right, and as many of the first groups."""
    found = {**entry, "correct": correct, "outcomes": "1" * correct + "0" * (entry["total"] - correct)}
    for kind in ("per_class", "per_mode"):
        left, found[kind] = correct, {}
        for name, counts in entry[kind].items():
            found[kind][name] = {**counts, "correct": min(left, counts["total"])}
            left -= found[kind][name]["correct"]
    return found
