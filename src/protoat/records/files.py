"""Reads records: size limits, checksums, schema, consistency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from protoat.errors import UserError
from protoat.evaluation.masking_audit import AuditReport
from protoat.evaluation.probe import Probe
from protoat.evaluation.record import Evaluation
from protoat.records import checks
from protoat.records import types as form
from protoat.records.training import Best, Epoch
from protoat.storage.manifest import checksums, read_record_bytes
from protoat.storage.parsing import decoded, parse_json, parse_yaml


class _Kind(NamedTuple):
    """Of record.

    Attributes:
        form: its typed class.
        agrees: refuses what contradicts itself.
        remedy: what to do about damage.
    """

    form: Any
    agrees: Callable[[Any], None]
    remedy: str


_T = TypeVar("_T")
_RESULT = "move it away"
_BACK = "put it back from a copy, or start anew in another folder"
_KINDS = {
    "evaluation": _Kind(form.Evaluation, checks.check_evaluation, f"{_RESULT} and measure again"),
    "audit": _Kind(form.Audit, checks.check_audit, f"{_RESULT} and audit again"),
    "probe": _Kind(form.Probe, checks.check_probe, f"{_RESULT} and measure again"),
    "best": _Kind(form.Best, checks.check_best, f"{_RESULT}, or put it back from a copy"),
    "run": _Kind(form.Facts, checks.check_facts, _BACK),
    "job": _Kind(form.JobFile, lambda _: None, _RESULT),
    "recipe": _Kind(form.RecipeFile, checks.check_recipe, _BACK),
    "metrics": _Kind(
        form.Epoch, lambda _: None, f"{_RESULT}, or put it back from a copy; the next start writes it again"
    ),
}
_SOUND: set[tuple[str, str]] = set()  # kinds and checksums of what has been looked at: tables read a record often


def read_record(path: Path) -> dict[str, Any] | None:
    """What a file of results holds, such as ``evaluation.json``; None where it is not there.

    Raises:
        ValueError: it is damaged, lacks what every one of its kind says, or contradicts itself.
    """
    try:
        return _read(path, path.stem.partition("-")[0], parse_json)
    except FileNotFoundError:
        return None


def read_evaluation(path: Path) -> Evaluation | None:
    """An ``evaluation.json``; see `read_record`."""
    return _typed(path, Evaluation.from_json)


def read_audit(path: Path) -> AuditReport | None:
    """An ``audit.json``; see `read_record`."""
    return _typed(path, AuditReport.from_json)


def read_probe(path: Path) -> Probe | None:
    """A ``probe.json``; see `read_record`."""
    return _typed(path, Probe.from_json)


def read_best(path: Path) -> Best | None:
    """A ``best.json``; see `read_record`."""
    return _typed(path, Best.from_json)


def _typed(path: Path, from_json: Callable[[Mapping[str, Any]], _T]) -> _T | None:
    record = read_record(path)
    try:
        return None if record is None else from_json(record)
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}; {_KINDS[path.stem.partition('-')[0]].remedy}") from error


def read_facts(folder: Path) -> dict[str, Any]:
    """``run.json`` of a folder; nothing where it is not there.

    Raises:
        ValueError: it is damaged.
    """
    return read_record(folder / "run.json") or {}


def read_start(folder: Path) -> str | None:
    """Identity of the run that a folder's run takes weights from, where ``job.json`` knows it.

    Raises:
        ValueError: it is damaged.
    """
    return (read_record(folder / "job.json") or {}).get("start")


def read_recipe_file(folder: Path) -> tuple[str, dict[str, Any]]:
    """``recipe.yaml`` of a run folder, as text that is YAML of a recipe, and as plain values.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged.
    """
    read: list[str] = []

    def parse(content: bytes) -> Any:
        read.append(decoded(content))
        return parse_yaml(read[0])

    content = _read(folder / "recipe.yaml", "recipe", parse)
    return read[0], content


def read_recipe(folder: Path) -> dict[str, Any]:
    """``recipe.yaml`` of a run folder as plain values; see `read_recipe_file`."""
    return read_recipe_file(folder)[1]


def read_epochs(folder: Path) -> list[Epoch]:
    """Lines of ``metrics.jsonl``, without what a kill has left of one at the end; none where the file is not there.

    Raises:
        ValueError: one is damaged, or does not follow the one before.
    """
    path, kind = folder / "metrics.jsonl", _KINDS["metrics"]
    try:
        content = read_record_bytes(path, lines=True)
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise UserError(f"{error}; {kind.remedy}") from error
    lines, known = [], ("metrics", sha256(content).hexdigest())
    for number, text in enumerate(content.splitlines(), start=1):
        try:
            line = parse_json(text)
            if known not in _SOUND:
                checks.check_type(line, kind.form)
        except ValueError as error:
            raise UserError(f"{path} is damaged in line {number}: {error}; {kind.remedy}") from error
        lines.append(line)
    try:
        if known not in _SOUND:
            checks.check_epochs(lines)
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; {kind.remedy}") from error
    _SOUND.add(known)
    return list(map(Epoch.from_json, lines))


def check_kept(kept: Any) -> None:
    """Refuses what cannot be the outcomes of a batch.

    Raises:
        ValueError: names what is wrong.
    """
    checks.check_type(kept, form.Kept)
    checks.check_kept(kept)


def unlisted(folder: Path) -> list[str]:
    """Names of the records in a folder that have no checksum, being of an earlier version.

    Raises:
        ValueError: the manifest is damaged.
    """
    known = checksums(folder)
    there = [path.name for path in sorted(folder.iterdir()) if path.is_file() and _is_record(path)]
    return [name for name in there if name not in known]


def _is_record(path: Path) -> bool:
    if path.suffix == ".safetensors":
        return path.stem in ("best", "last")
    return path.suffix in (".json", ".jsonl", ".yaml") and path.stem.partition("-")[0] in (*_KINDS, "last")


def _read(path: Path, name: str, parse: Callable[[bytes], Any]) -> dict[str, Any]:
    kind = _KINDS[name]
    try:
        content = read_record_bytes(path)
    except FileNotFoundError:
        raise
    except ValueError as error:
        raise UserError(f"{error}; {kind.remedy}") from error
    try:
        record: Any = parse(content)
        known = (name, sha256(content).hexdigest())
        if known not in _SOUND:
            checks.check_type(record, kind.form)
            kind.agrees(record)
            _SOUND.add(known)
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; {kind.remedy}") from error
    assert isinstance(record, Mapping)
    return dict(record)
