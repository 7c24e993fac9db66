"""Builds models that are no run: user code, timm or torchvision, with weights from a file."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from protoat.attacks.mode import check_built
from protoat.data import ImageData
from protoat.errors import UserError, in_a_line
from protoat.models.library import check_name
from protoat.models.transfer import transfer
from protoat.names import nearest
from protoat.optional import optional
from protoat.pretraining.weights_file import read_tensors
from protoat.recipes.initialise import digest
from protoat.runs.network import call_builder
from protoat.training.checkpoint import to_bytes

logger = logging.getLogger(__name__)

# Tensors that count or say places, which no answer depends on or which the architecture gives.
_COUNTED = ("num_batches_tracked", "n_averaged", "position_ids", "relative_position_index")


class AnyModel(NamedTuple):
    """A model with its weights.

    Attributes:
        model: as its builder made it.
        weights: name of the file they came from, ``"pretrained"`` or ``"as built"``.
        sha256: of that file, or of the weights themselves.
        mean, std: the normalisation that pretrained weights expect in front, None where there is none.
    """

    model: nn.Module
    weights: str
    sha256: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def build_model(spec: str, data: ImageData, *, weights: Path | str | None = None) -> AnyModel:
    """A model by what the command line calls it.

    Args:
        spec: ``package.module:builder``, or with a dot as in recipes; the builder is told num_classes, in_channels and
            image_size as far as it has arguments of these names. Or ``timm:name`` or ``torchvision:name``, with their
            own pretrained weights where `weights` is None, and random ones where it is ``"none"``.
        data: what it will be shown; number of classes and shape of the images.
        weights: see `protoat.pretraining.weights_file.read_tensors`; ``"none"`` leaves the model as it is built.

    Raises:
        ValueError: a model that cannot be found, code of the user's that raises, weights of another architecture, no
            file of weights.
    """
    if ":" not in spec:
        spec = ":".join(spec.rsplit(".", 1))
    home, colon, name = spec.partition(":")
    if not (home and colon and name):
        raise UserError(
            f"--model {spec!r} is not understood; write package.module:builder, timm:name or torchvision:name"
        )
    pretrained, weights = weights is None, None if weights == "none" else weights
    tensors = None if weights is None else read_tensors(weights)
    library = {"timm": _from_timm, "torchvision": _from_torchvision}.get(home)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # what a builder leaves to chance is the same in every process
        if library is None:
            built = AnyModel(_built_by(spec, data), "as built")
        else:
            built = library(name, None if pretrained else data.num_classes)
    if weights is not None and tensors is not None:
        _load(tensors, built.model, Path(weights))
        return AnyModel(built.model, Path(weights).name, digest(Path(weights)))
    check_built(built.model)
    return built._replace(sha256=sha256(to_bytes(built.model.state_dict())).hexdigest())


def _load(tensors: Mapping[str, Tensor], model: nn.Module, path: Path) -> None:
    """Every tensor of the model from the file, and every one of the file but prototypes into the model.

    Counters and tables of places, which older files lack and newer ones have, are left as they are built; so is what
    stands in the file beside the part that is the model, such as a loss of its own, which a log line names.

    Raises:
        ValueError: they are not the same.
    """
    try:
        report = transfer({key: value for key, value in tensors.items() if not key.startswith("objective.")}, model)
    except ValueError as error:
        raise UserError(f"--weights {path}: {error}") from error
    buffers = dict(model.named_buffers())
    lacking = [name for name in report.missing if name not in buffers or buffers[name].is_floating_point()]
    unexpected = [name for name in report.unexpected if not name.endswith(_COUNTED)]
    if lacking or unexpected or report.of_another_shape:
        raise UserError(f"--weights {path} is of another architecture: {report}")
    if report.beside:
        logger.warning("--weights %s: not the model's, so left out: %s", path, ", ".join(report.beside[:8]))


def _built_by(spec: str, data: ImageData) -> nn.Module:
    module, _, name = spec.partition(":")
    try:
        home = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _raised(spec, error, None) from error  # it is there, and imports something that is not
        raise UserError(f"--model {spec}: there is no module {error.name}, here or installed") from None
    except Exception as error:
        raise _raised(spec, error, None) from error
    found = getattr(home, name, None)
    if found is None:
        known = [key for key, value in vars(home).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"--model {spec}: {module} has no {name}; {nearest(name, known)}")
    if callable(found) and not isinstance(found, nn.Module):
        torch.manual_seed(0)  # importing may have drawn numbers
        try:
            found = call_builder(f"--model {spec}", found, data.num_classes, *data.shape[:2])
        except UserError:
            raise
        except Exception as error:
            raise _raised(spec, error, home.__file__) from error
    if not isinstance(found, nn.Module):
        raise UserError(f"--model {spec} is of type {type(found).__name__}, expected torch.nn.Module")
    return found


def _raised(spec: str, error: Exception, home: str | None) -> ValueError:
    """What the user's own code raised, with the last line of it that was reached."""
    ours = (__file__, "<frozen")
    frames = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    place = next((frame for frame in reversed(frames) if home in (None, frame.filename)), None)
    where = f" ({Path(place.filename).name}:{place.lineno})" if place else ""
    return UserError(f"--model {spec} raised {type(error).__name__}: {error}{where}")


def _from_timm(name: str, num_classes: int | None) -> AnyModel:
    timm: Any = optional("timm", "timm")
    check_name("--model timm", name, timm.list_models(), [*timm.list_models(), *timm.list_pretrained()])
    if num_classes is not None:
        return AnyModel(timm.create_model(name, pretrained=False, num_classes=num_classes), "as built")
    with _downloading(f"timm:{name}"):
        model = timm.create_model(name, pretrained=True)
    mean, std = (tuple(model.pretrained_cfg[key]) for key in ("mean", "std"))
    return AnyModel(model, "pretrained", mean=mean, std=std)


def _from_torchvision(name: str, num_classes: int | None) -> AnyModel:
    from torchvision import models  # takes seconds

    check_name("--model torchvision", name, models.list_models(), models.list_models())
    if num_classes is not None:
        return AnyModel(models.get_model(name, weights=None, num_classes=num_classes), "as built")
    chosen = models.get_model_weights(name).DEFAULT
    with _downloading(f"torchvision:{name}"):
        tensors = chosen.get_state_dict(progress=False, check_hash=True, weights_only=True)
    model = models.get_model(name, weights=None, num_classes=len(chosen.meta["categories"]))
    model.load_state_dict(tensors)
    prepared = chosen.transforms()
    return AnyModel(model, "pretrained", mean=tuple(prepared.mean), std=tuple(prepared.std))


@contextmanager
def _downloading(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise UserError(
            f"the pretrained weights of {what} could not be had ({in_a_line(error)}); "
            "get them elsewhere and write --weights FILE, or --weights none for random ones"
        ) from error
