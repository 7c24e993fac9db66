"""Adds a trained run to the zoo: ``python -m tools.add_to_zoo runs/mine mnist-2``.

Its best weights are kept, in half precision where they would be larger than 300 KB, then measured and audited as they
ship. Names of machines and paths are left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import protoat
from protoat.records.files import read_facts
from protoat.runs.audit import audit_subject
from protoat.runs.measure import measure
from protoat.runs.run import Run
from protoat.sharing.push import without_places
from protoat.storage.manifest import write_records
from protoat.training.checkpoint import to_bytes

ZOO = Path(protoat.__file__).parent / "zoo"
MOST_BYTES = 600_000
_LARGE = 300_000
_KEPT = ("recipe.yaml", "metrics.jsonl", "best.json")


def add(
    run: Run,
    name: str,
    *,
    attacks: list[str],
    images: int | None,
    audited: int | None,
    zoo: Path = ZOO,
    said: Callable[[str], None] = print,
) -> Path:
    """Writes the folder of a run of the zoo, in place of one of this name.

    Args:
        run: trained to its end.
        name: without ``zoo:``.
        attacks: measured on it.
        images: test images for them; None takes all.
        audited: test images of the audit; None audits nothing.
        zoo: folder of the zoo.
        said: what becomes of it is told here.

    Raises:
        ValueError: a run that has not ended, or one that is too large.
    """
    if not run.complete:
        raise ValueError(f"{run.path} has not ended")
    weights = run.weights()
    tensors = weights.tensors
    if len(to_bytes(tensors)) > _LARGE:
        tensors = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    facts = without_places(read_facts(run.path))
    folder = zoo / name
    shutil.rmtree(folder, ignore_errors=True)
    kept = {name: (run.path / name).read_bytes() for name in _KEPT if (run.path / name).exists()}
    kept["run.json"] = json.dumps(facts, indent=1).encode()
    write_records(folder, {**kept, weights.path.name: to_bytes(tensors)})
    subject = Run(folder).subject()
    evaluation = measure(subject, attacks, limit=images)
    audit = None if audited is None else audit_subject(subject, images=audited)
    for path in filter(Path.exists, (folder / "evaluation.json", folder / "audit.json")):
        content = without_places(json.loads(path.read_text()))
        write_records(folder, {path.name: json.dumps(content, indent=1).encode()})
    (folder / ".lock").unlink(missing_ok=True)
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > MOST_BYTES:
        raise ValueError(f"{folder} has {size} bytes, and {MOST_BYTES} are allowed")
    for attack, found in evaluation.entries.items():
        said(f"{attack} {100 * found.accuracy:.1f} % of {found.count.total}")
    verdict = "none" if audit is None else "passed" if audit.passed else f"failed: {', '.join(audit.failed)}"
    said(f"{folder}: {size} bytes; audit {verdict}")
    return folder


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--attacks", nargs="+", default=["clean", "pgd10", "pgd100x10", "aa"])
    parser.add_argument("--n", type=int, help="test images that are attacked; default all")
    parser.add_argument("--audited", type=int, default=1000, help="test images of the audit")
    options = parser.parse_args()
    add(Run(options.run), options.name, attacks=options.attacks, images=options.n, audited=options.audited)


if __name__ == "__main__":
    main()
