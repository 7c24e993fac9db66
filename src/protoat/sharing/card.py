"""The model card of a run: what it is, how robust, by which measure, and how to use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from protoat.evaluation.masking_audit import AuditReport
from protoat.evaluation.record import Evaluation
from protoat.evaluation.report import lowest_columns
from protoat.names import markdown_text, printable
from protoat.reports.sections.summary import described
from protoat.runs.run import Run

CARD = "README.md"
HEADER = """\
---
library_name: protoat
pipeline_tag: image-classification
tags: [adversarial-robustness, adversarial-training, image-classification]
---
"""
_ONNX = """\
```python
import protoat as pa

model = pa.Exported("model.onnx")
print(model.predict(["picture.png"])[0])
```
"""
_HUB = """\
```python
import protoat as pa

run = pa.Run("hf://{repo}")
print(run.predict(["picture.png"])[0])
```

`protoat evaluate hf://{repo}` attacks it again; `show`, `audit`, `report`, `compare`, `predict` and `export` take
the same name.
"""


def card(run: Run, files: Mapping[str, Mapping[str, Any]] = {}, *, repo: str | None = None) -> str:
    """A model card in Markdown.

    Args:
        run: trained; what was measured of it is said with intervals, and what was not is said too.
        files: exported ones, with what `protoat.export` found of each.
        repo: ``user/name`` of the repository on the Hub that it goes to.
    """
    shape = "x".join(map(str, run.preprocess.shape))
    classes = ", ".join(run.class_names)
    parts = [
        HEADER,
        f"# {markdown_text(run.name)}",
        f"A robust image classifier, trained by protoat for {run.threat}: images "
        f"of {shape} pixels in [0, 1], {len(run.class_names)} classes ({markdown_text(classes)}).",
        _table(["", "value"], list(_about(run))),
        "## Accuracy",
        *_accuracy(run, repo),
        "## Audit for gradient masking",
        _audit(run),
        *(["## Files", *_files(files)] if files else []),
        "## Use",
        *([_ONNX] if "model.onnx" in files else []),
        *([_HUB.format(repo=repo)] if repo else []),
        "A picture of any size is scaled and centre-cropped, set upright, laid over "
        f"{run.preprocess.background} where transparent, and converted to sRGB"
        f"{', then to grey' if run.preprocess.shape[0] == 1 else ''}, as in training. Robustness is claimed against "
        f"{run.threat} alone, and on images like those of training; probabilities are not calibrated.",
        "## Recipe",
        f"```yaml\n{printable(run.recipe_text, lines=True).replace('```', '')}```",
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _about(run: Run) -> Iterator[list[str]]:
    yield from ([key, value] for key, value in described(run).items())
    yield ["parameters", f"{sum(value.numel() for value in run.model.parameters()):,}"]
    weights = run.weights()
    yield ["weights", f"{weights.path.name}, SHA-256 {weights.sha256}"]
    for name, digest in zip(("training", "held-out"), run.facts.get("data_sha256", []), strict=False):
        yield [f"{name} images", f"SHA-256 {digest}"]
    if sessions := run.facts.get("sessions"):
        known = ("protoat", "commit", "torch")
        yield ["trained with", ", ".join(f"{key} {sessions[-1][key]}" for key in known if sessions[-1].get(key))]


def _accuracy(run: Run, repo: str | None) -> Iterator[str]:
    record = run.evaluation
    if record is None or run.outdated:
        name = f"hf://{repo}" if repo else run.name  # a path here is nothing to those who read the card elsewhere
        yield f"Not measured; `protoat evaluate {printable(name)}` does it."
        return
    subject = record.subject
    yield (
        f"{subject.images} test images of {markdown_text(subject.data)} (SHA-256 {subject.data_sha256}), "
        f"{subject.threat}; % [95 % Wilson interval over images]. One seed."
    )
    rows = [
        [name, found.count.in_percent, *(f"{group}: {count.in_percent}" for group, count in found.worst_groups)]
        for name, found in record.entries.items()
    ]
    yield _table(["attack", "accuracy", *lowest_columns(record.entries)], rows)
    if any(found.has_modes for found in record.entries.values()):
        yield _per_mode(record)


def _per_mode(record: Evaluation) -> str:
    entries = record.entries
    modes = next(iter(entries.values())).per_mode
    rows = [[mode, *(found.per_mode[mode].in_percent for found in entries.values())] for mode in modes]
    return _table(["mode", *entries], rows)


def current_audit(run: Run) -> AuditReport | None:
    """The audit of a run, unless it is of weights that training has replaced since."""
    found = run.audit
    return None if found is None or (found.subject is not None and not run.is_of(found.subject)) else found


def _audit(run: Run) -> str:
    found = current_audit(run)
    if found is None:
        return "Not audited."
    verdict = "No check failed, which rules out common mistakes only" if not found.failed else ""
    return f"{verdict or 'FAILED: ' + ', '.join(found.failed)}; {found.extent}, {found.images} images, {found.threat}."


def _files(files: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield (
        "Each file takes images (B, C, H, W) in [0, 1] and gives logits and embedding. It was loaded again and "
        "compared with the model, on images as they are and attacked:"
    )
    rows = [
        [
            name,
            f"{found['images']} {'test images' if found['real'] else 'images of noise'}",
            f"{found['largest']:.1g}",
            str(found["fooled"]),
            str(found["fooled_by_file"]),
        ]
        for name, found in files.items()
    ]
    heads = ["file", "compared on", "largest difference of a logit"]
    yield _table([*heads, "both fooled by PGD-10 on the model", "both fooled by queries to the file"], rows)
    if "model.pt2" in files:
        yield (
            "`torch.export.load` reads pickles: load `model.pt2` only if you trust its origin. Its extra file "
            "`protoat.json` gives classes and preprocessing."
        )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([markdown_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
