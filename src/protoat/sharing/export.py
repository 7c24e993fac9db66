"""Exports the model of a run as ONNX, torch or safetensors, and compares the file with it."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from protoat.arguments import check_whole
from protoat.attacks import PGD, Square, UniformNoise
from protoat.data import DataNotFoundError
from protoat.errors import UserError, in_a_line
from protoat.functional.forward import as_module, output_of
from protoat.functional.preserve import preserve_modes
from protoat.runs.run import Run
from protoat.runs.store import write
from protoat.sharing.card import CARD, HEADER, card
from protoat.sharing.exported import KEY, Exported, Facts, extra
from protoat.storage.path_checks import check_folder, check_holds_no_others
from protoat.training.weights import tensors_of
from protoat.types import Output, as_output

logger = logging.getLogger(__name__)

FORMATS = {"onnx": "model.onnx", "torch": "model.pt2", "safetensors": "model.safetensors"}
_BEGUN = f"{HEADER}\nThis export has not ended: files are missing, or of another model. Export again.\n"
_TOLERANCE = 1e-4
_QUERIES = 50


class Agreement(NamedTuple):
    """How far an exported file says what the model says.

    Attributes:
        images: how many were compared, as they are and twice attacked.
        real: whether they are test images; noise where these are not there.
        largest: the largest difference of a logit.
        fooled: images whose class changes under PGD-10 on the model, for both alike.
        fooled_by_file: the same under an attack by queries on the exported file.
    """

    images: int
    real: bool
    largest: float
    fooled: int
    fooled_by_file: int


def export(
    run: Run, out: Path | str, *, formats: Collection[str] = ("onnx",), images: int = 64
) -> dict[str, Agreement]:
    """Writes the model of a run in other formats, with its classes and preprocessing inside, and a model card.

    A file takes images (B, C, H, W) in [0, 1], of any B: normalisation is in the network. What comes before, from a
    picture of any size, is in the file's metadata, and `Exported.predict` does it. Each file is loaded again and must
    agree with the model on test images and on adversarial examples, made against the one and against the other;
    nothing is written before all do.

    Args:
        run: trained.
        out: folder of ``model.onnx``, ``model.pt2``, ``model.safetensors`` and the card, ``README.md``.
        formats: of onnx, torch, safetensors.
        images: test images to compare on, spread over the split.

    Returns:
        For each format, how far the file agrees.

    Raises:
        ValueError: an unknown format; a folder that holds other files; a package that is missing; a network that torch
            cannot export; a file that does not agree.
        DiskError: a file cannot be written.
    """
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise UserError(f"format {unknown[0]!r} is unknown; write {', '.join(FORMATS)}")
    if not formats:
        raise UserError(f"no format is named; write {', '.join(FORMATS)}")
    check_whole(images=images)
    _check_holds_no_others(Path(out))
    if "onnx" in formats:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            extra(package)
    facts, (x, real) = Facts.of(run), _images(run, images)
    found: dict[str, Agreement] = {}
    contents: dict[str, bytes] = {}
    model = run.model
    for form in (name for name in FORMATS if name in formats):
        contents[FORMATS[form]] = _WRITERS[form](model, facts)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / FORMATS[form]
            write(path, contents[path.name])
            found[form] = agreement(run, _reader(path, run), x, real=real, name=path.name)
    text = card(run, {FORMATS[form]: each._asdict() for form, each in found.items()})
    write(Path(out) / CARD, _BEGUN)  # whatever a kill leaves, a card says whose it is
    for name, content in contents.items():
        write(Path(out) / name, content)
    write(Path(out) / CARD, text)
    return found


def _check_holds_no_others(folder: Path) -> None:
    """Refuses a folder with files that no export wrote: one could be the user's own ``README.md`` or model.

    Our card comes before all other files, so that they are ours where it is.

    Raises:
        ValueError: names one of them; see also `check_folder`.
    """
    check_folder(folder, "out")
    if not folder.is_dir():
        return
    names = (CARD, *FORMATS.values())
    left = [f".{name}.partial" for name in names]  # of a process that was killed while it wrote
    ours = [*left, *(names if _is_card(folder / CARD) else ())]
    there = [path.name for path in folder.iterdir()]
    check_holds_no_others(str(folder), there, ours, of="export", instead="folder")


def _is_card(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(HEADER)) == HEADER.encode()


def agreement(run: Run, exported: Callable[[Tensor], Any], x: Tensor, *, real: bool, name: str) -> Agreement:
    """Compares an exported model with that of a run.

    Args:
        run: with its model.
        exported: images -> `Output`.
        x: (B, C, H, W) images.
        real: whether they are test images.
        name: of the file, for messages.

    Raises:
        ValueError: logits that differ by more than 1e-4 of their size, or an image of whose class they disagree.
    """
    model, threat = as_module(run.model), run.threat
    file = as_module(exported)
    largest = _difference(model, file, x, f"{name} does not agree with the model on images as they are")
    with torch.no_grad():
        y = output_of(model, x).logits.argmax(1)
    by_queries = UniformNoise(threat) if threat.geometry.sparse else Square(threat, queries=_QUERIES)
    attacks = ((PGD(threat, steps=10), model, "PGD on it"), (by_queries, file, "queries to the file"))
    fooled = []
    for attack, attacked, how in attacks:
        found = attack(attacked, x, y)
        wrong = f"{name} does not agree with the model under {how}"
        largest = max(largest, _difference(model, file, found.x_adv, wrong))
        fooled.append(int((~found.correct).sum()))
    return Agreement(len(x), real, largest, *fooled)


@torch.no_grad()
def _difference(model: nn.Module, file: nn.Module, x: Tensor, wrong: str) -> float:
    """The largest difference of a logit, also of one image alone.

    Raises:
        ValueError: it is too large, or the two disagree on the class of an image; the message begins with `wrong`.
    """
    ours, theirs, alone = (output_of(*pair).logits.float() for pair in ((model, x), (file, x), (file, x[:1])))
    allowed = _TOLERANCE * max(1.0, float(ours.abs().max()))
    difference = max(float((ours - theirs).abs().max()), float((ours[:1] - alone).abs().max()))
    top = ours.topk(2, dim=1).values
    decided = top[:, 0] - top[:, 1] > 2 * allowed
    if not difference <= allowed or bool((ours.argmax(1) != theirs.argmax(1))[decided].any()):
        raise UserError(
            f"{wrong}: a logit differs by {difference:.2g}, and {allowed:.2g} are allowed; nothing was written"
        )
    return difference


def _images(run: Run, number: int) -> tuple[Tensor, bool]:
    """Test images, spread over the split; noise where the data is not there."""
    try:
        data = run.test_images
    except DataNotFoundError as error:
        logger.warning("%s; the exported files are compared on noise", error)
        generator = torch.Generator().manual_seed(0)
        return torch.rand(number, *run.preprocess.shape, generator=generator), False
    rows = torch.linspace(0, len(data) - 1, min(number, len(data))).long()
    return data.pixels(rows), True


def _reader(path: Path, run: Run) -> Callable[[Tensor], Any]:
    if path.suffix != ".pt2":
        return Exported(path, trust=run.recipe.trust)
    module = torch.export.load(path).module()  # written by this process a moment ago, so no stranger's pickle
    return lambda x: module(x)  # noqa: PLW0108 - as a module it would be put into eval mode, which it refuses


def _program(model: nn.Module, facts: Facts) -> torch.export.ExportedProgram:
    example = torch.zeros(2, *facts.preprocess.shape)
    try:
        with preserve_modes(model), torch.no_grad():
            return torch.export.export(model.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:  # torch has many kinds
        first = in_a_line(error)[:300]
        raise UserError(f"torch cannot export {type(model).__name__}: {type(error).__name__}: {first}") from error


def _to_torch(model: nn.Module, facts: Facts) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(_program(_Named(model), facts), buffer, extra_files={f"{KEY}.json": facts.to_text()})
    return buffer.getvalue()


def _to_onnx(model: nn.Module, facts: Facts) -> bytes:
    program = _program(_Named(model), facts)
    outputs = ["logits", "embedding"][: len(program.graph_signature.user_outputs)]
    with _quiet():
        graph = torch.onnx.export(program, dynamo=True, input_names=["images"], output_names=outputs, verbose=False)
    assert graph is not None
    graph.model.metadata_props[KEY] = facts.to_text()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        graph.save(path, external_data=False)
        return path.read_bytes()


class _Named(nn.Module):
    """Logits, and the embedding where there is one, by name: a file knows no class of ours."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = self.model(x)
        return found._asdict() if isinstance(found, Output) else {"logits": as_output(found).logits}


def _to_safetensors(model: nn.Module, facts: Facts) -> bytes:
    tensors = {name: value.detach().contiguous().clone() for name, value in tensors_of(model).items()}
    return safetensors.torch.save(tensors, {KEY: facts.to_text()})


_WRITERS: dict[str, Callable[[nn.Module, Facts], bytes]] = {
    "onnx": _to_onnx,
    "torch": _to_torch,
    "safetensors": _to_safetensors,
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of its steps."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
