"""The metadata of an exported file: classes, preprocessing, origin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from protoat._version import __version__
from protoat.arguments import counts_per_class
from protoat.data import Preprocess
from protoat.errors import UserError
from protoat.runs.run import Run
from protoat.storage.parsing import parse_json

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
        """Those of a run."""
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
            names, preprocess = content["class_names"], _preprocess(content["preprocess"])
            counts = content.get("prototypes_per_class")
            if counts is not None:
                counts = counts_per_class(len(names), prototypes_per_class=counts)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{wrong} ({error})") from error
        if not all(isinstance(text, str) for text in (*texts.values(), *names)) or not names:
            raise UserError(wrong)
        return cls(class_names=tuple(names), preprocess=preprocess, prototypes_per_class=counts, **texts)


def _preprocess(content: Mapping[str, Any]) -> Preprocess:
    shape = content["shape"]
    if len(shape) != 3 or not all(isinstance(size, int) and 0 < size < 2**16 for size in shape):
        raise UserError(f"shape {shape} is no (C, H, W)")
    return Preprocess.from_json(content)
