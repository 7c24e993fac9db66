"""Exported models: what a file says of itself, and how it is read, ONNX or safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from protoat._version import __version__
from protoat.arguments import counts_per_class
from protoat.data import Preprocess
from protoat.errors import MissingFileError, UserError
from protoat.evaluation import Predictions, predict
from protoat.optional import optional
from protoat.recipes.reading import recipe_from_text
from protoat.runs.network import build_network
from protoat.runs.run import Run
from protoat.storage.files import open_to_read
from protoat.storage.parsing import parse_json
from protoat.training.weights import check_same_architecture, load_tensors, tensors_of
from protoat.types import Output, as_output

KEY = "protoat"  # under which formats with a place for remarks keep it


@dataclass(frozen=True)
class Facts:
    """Of an exported model.

    Attributes:
        name: of the run.
        class_names: in the order of the logits.
        preprocess: from pictures to what the network takes.
        threat: what it was trained for, such as ``linf 0.3``.
        sha256: of the run's weights.
        recipe: of the run, as YAML.
        version: of protoat.
        prototypes_per_class: of a head that the run's modes asked for; None where the recipe says all of the network.
    """

    name: str
    class_names: tuple[str, ...]
    preprocess: Preprocess
    threat: str
    sha256: str
    recipe: str
    version: str = __version__
    prototypes_per_class: list[int] | None = None

    @classmethod
    def of(cls, run: Run) -> Facts:
        """The facts of a run."""
        return cls(
            run.name,
            tuple(run.class_names),
            run.preprocess,
            str(run.threat),
            run.weights().sha256,
            run.recipe_text,
            prototypes_per_class=run.facts.get("prototypes_per_class"),
        )

    def to_text(self) -> str:
        """As JSON."""
        return json.dumps({**asdict(self), "preprocess": self.preprocess.to_json()})

    @classmethod
    def from_text(cls, text: str | None, source: str) -> Facts:
        """What `to_text` gave.

        Raises:
            ValueError: it is of no export of protoat.
        """
        wrong = f"{source} is not exported by protoat, or is damaged: it does not say its classes and preprocessing"
        if text is None:
            raise UserError(wrong)
        try:
            content = parse_json(text)
            texts = {key: content[key] for key in ("name", "threat", "sha256", "recipe", "version")}
            names, preprocess = content["class_names"], Preprocess.from_json(content["preprocess"])
            shape = preprocess.shape
            if len(shape) != 3 or not all(isinstance(size, int) and 0 < size < 2**16 for size in shape):
                raise UserError(f"shape {shape} is no (C, H, W)")
            counts = content.get("prototypes_per_class")
            if counts is not None:
                counts = counts_per_class(len(names), prototypes_per_class=counts)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{wrong} ({error})") from error
        if not all(isinstance(text, str) for text in (*texts.values(), *names)) or not names:
            raise UserError(wrong)
        return cls(class_names=tuple(names), preprocess=preprocess, prototypes_per_class=counts, **texts)


class Exported:
    """A model in a file that `protoat.export` has written: a function of images in [0, 1], and of pictures.

    Nothing in the file is run as code: an ONNX graph is computed by onnxruntime, and safetensors are put into the
    network of their recipe, which names no code but protoat's and what is trusted. A ``.pt2`` file is not read, since
    ``torch.export.load`` reads pickles, which can run anything.

    Args:
        path: ``model.onnx`` or ``model.safetensors``.
        trust: code of your own that the recipe may name, such as ``["mymodels.Net"]``.

    Attributes:
        facts: name, classes, preprocessing, threat model.
        module: the network; None of an ONNX graph, through which no gradient comes.

    Raises:
        ValueError: another kind of file, a damaged one, weights of another architecture, a package that is missing.

    >>> Exported("model.pt2")
    Traceback (most recent call last):
    protoat.errors.UserError: model.pt2: only .onnx and .safetensors are read, as a .pt2 file can run code; load one \
that you trust by torch.export.load
    """

    def __init__(self, path: Path | str, *, trust: Collection[str] = ()) -> None:
        self.path = Path(path)
        self.module: nn.Module | None = None
        suffix = self.path.suffix.lower()
        if suffix not in (".onnx", ".safetensors"):
            raise UserError(
                f"{self.path}: only .onnx and .safetensors are read, as a .pt2 file can run code; load one that you "
                "trust by torch.export.load"
            )
        if not self.path.is_file():
            raise MissingFileError(f"there is no file {self.path}")
        with open_to_read(self.path) as file:
            content = file.read()
        if suffix == ".onnx":
            self._run, self.facts = _of_onnx(content, self.path)
        else:
            self.module, self.facts = _of_safetensors(content, self.path, trust)
            self._run = self.module

    def __repr__(self) -> str:
        return f"Exported({str(self.path)!r})"

    def __call__(self, x: Tensor) -> Output:
        """Logits (B, C) and embedding (B, D) of images (B, C, H, W) in [0, 1]."""
        return as_output(self._run(x))

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the logits."""
        return self.facts.class_names

    def predict(self, images: Any, *, batch_size: int = 256) -> Predictions:
        """Classes and probabilities of pictures, as `Run.predict` gives them.

        Raises:
            ValueError: see `protoat.predict`.
        """
        return predict(
            self,
            images,
            preprocess=self.facts.preprocess,
            class_names=self.class_names,
            batch_size=batch_size,
        )


def extra(name: str) -> Any:
    """A package of the extra ``export``."""
    return optional(name, "'protoat[export]'")


def _of_onnx(content: bytes, path: Path) -> tuple[Callable[[Tensor], Output], Facts]:
    onnx, runtime = extra("onnx"), extra("onnxruntime")
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # of protobuf
        raise UserError(f"{path} is no ONNX model, or is damaged: {error}") from error
    if any(tensor.data_location == tensor.EXTERNAL for tensor in model.graph.initializer):
        raise UserError(f"{path} names other files for its weights, which are not read")
    facts = Facts.from_text({entry.key: entry.value for entry in model.metadata_props}.get(KEY), str(path))
    try:
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no public class for these
        raise UserError(f"{path} cannot be computed by onnxruntime: {error}") from error

    def run(x: Tensor) -> Output:
        logits, *embedding = session.run(None, {"images": x.detach().float().cpu().numpy()})
        found = torch.from_numpy(logits)
        return Output(found, torch.from_numpy(embedding[0]) if embedding else found.new_empty(len(found), 0))

    return run, facts


def _of_safetensors(content: bytes, path: Path, trust: Collection[str]) -> tuple[nn.Module, Facts]:
    try:
        tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file ({error})") from error
    facts = Facts.from_text(_metadata(content).get(KEY), str(path))
    recipe = recipe_from_text(facts.recipe, trust=trust, source=path)
    model = build_network(recipe, len(facts.class_names), facts.preprocess.shape, facts.prototypes_per_class)
    check_same_architecture(tensors_of(model), tensors, path)
    load_tensors(model, tensors)
    return model.eval(), facts


def _metadata(content: bytes) -> dict[str, str]:
    """Metadata in the header of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    return dict(parse_json(content[8 : 8 + length]).get("__metadata__", {}))
