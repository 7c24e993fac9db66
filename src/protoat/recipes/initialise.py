"""The part of a recipe that says which weights training starts from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from protoat.errors import UserError
from protoat.pretraining.weights_file import split_spec
from protoat.spelling import argument, setting
from protoat.training.weights import digest as digest_of_file
from protoat.training.weights import restore


@dataclass
class Initialise:
    """Where training starts from, in place of random weights; which part of the network then learns.

    Args:
        run: pre-trained or trained; its folder, or for protoat train also zoo:NAME or hf://user/name.
        weights: in place of a run, a file: safetensors, or a torch state dictionary as ACL's and RoCL's scripts save;
            FILE#NAME takes one of several in it.
        branch: of two sets of batch norm: clean or adv; none takes the one that attacked images have passed through.
        head: zero (as ACL), random, or loaded with the rest.
        finetune: all, last_block (and the head), or head; the rest keeps its weights and batch-norm statistics.
        sha256: of the weights file, filled in when a run begins; another file is refused.

    Raises:
        ValueError: neither a run nor weights, or both.
    """

    run: Path | None = None
    weights: Path | None = None
    branch: Literal["clean", "adv"] | None = None
    head: Literal["zero", "random", "loaded"] = "zero"
    finetune: Literal["all", "last_block", "head"] = "all"
    sha256: str | None = None

    def __post_init__(self) -> None:
        if (self.run is None) == (self.weights is None):
            raise UserError(
                "initialise takes weights from one place; "
                f"write {argument('initialise.run')} or {argument('initialise.weights')}"
            )

    @property
    def file(self) -> Path:
        """The weights file: of a run, the best on held-out images where there is one, else the last.

        Raises:
            ValueError: it is not there, or damaged.
        """
        if self.weights is not None:
            if not split_spec(self.weights)[0].is_file():
                raise UserError(f"{setting({'initialise.weights': str(self.weights)})}: there is no such file")
            return self.weights
        assert self.run is not None
        return weights_of_run(self.run, "initialise.run")


def weights_of_run(folder: Path, key: str) -> Path:
    """Weights of a run: the best on held-out images where there are such, else the last.

    Args:
        folder: of the run.
        key: of the recipe, for the message.

    Raises:
        ValueError: it is not there, has not ended, or is damaged.
    """
    there = [name for name in ("best", "last") if os.path.lexists(folder / f"{name}.safetensors")]
    # Of a run that is handed on the last weights may be left out; one that has not ended has checkpoints.
    if not there or ("last" not in there and os.path.lexists(folder / "checkpoints")):
        raise UserError(f"{setting({key: str(folder)})}: there is no finished run")
    found = folder / f"{there[0]}.safetensors"
    restore(found)
    return found


def digest(path: Path) -> str:
    """SHA-256 of a file, or of one of several sets of weights in it, ``FILE#NAME``."""
    file, name = split_spec(path)
    found = digest_of_file(file.resolve())
    return found if name is None else sha256(f"{found}#{name}".encode()).hexdigest()
