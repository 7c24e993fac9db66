"""The options that name the model to evaluate, shared by the commands evaluate and audit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from jsonargparse import Namespace

from protoat.data import Groups, Source
from protoat.errors import UserError
from protoat.pixels import Pixels
from protoat.recipes.choices import choices_of
from protoat.recipes.parser import Parser
from protoat.runs.claims import A_RUN
from protoat.runs.run import Run
from protoat.runs.subject import Subject, subject_of_model, with_prototype_head
from protoat.storage.path_checks import check_folder
from protoat.threats import NormName, ThreatModel


def subject_parser(prog: str) -> Parser:
    """A parser that knows what to judge: a run folder, or ``--model`` with data and threat model; see `subject_of`."""
    parser = Parser(prog, choices=lambda key: choices_of("data") if key == "data" else {})
    parser.add_argument(
        "run",
        nargs="?",
        type=Path | None,
        help=f"{A_RUN}; or else --model",
    )
    parser.add_argument(
        "--model", type=str | None, help="package.module:builder (also from here), timm:name or torchvision:name"
    )
    parser.add_argument(
        "--weights",
        type=str,
        help="of a run: best or last (default: best on held-out images, else last); of a model: safetensors, or a "
        "state dictionary without code; FILE#NAME takes one of several in it; none leaves random weights",
    )
    parser.add_argument("--data", type=Source | None, help="of a model: its test images")
    parser.add_argument("--groups", type=Groups | None, help="of a model: join its classes, as in a recipe")
    parser.add_argument("--mean", nargs="+", type=float, help="of a model: normalisation it expects in front of it")
    parser.add_argument("--std", nargs="+", type=float, help="the same, its standard deviations")
    parser.add_argument("--threat.eps", type=Pixels | None, help="0.3 or 8/255; default: what the recipe says")
    parser.add_argument(
        "--threat.norm", type=NormName | None, help="linf, l2 or l1; default: what the recipe says, or linf"
    )
    parser.add_argument(
        "--head",
        type=Literal["logits", "prototypes"],
        default="logits",
        help="what predicts; prototypes: the nearest class of SoftTriple, with records in prototypes below the run",
    )
    parser.add_argument("--out", type=Path | None, help="folder of the record; default: where the run is")
    parser.add_trust()
    return parser


def subject_of(parser: Parser, options: Namespace) -> Subject:
    """What the options of a `subject_parser` name.

    Raises:
        ValueError: neither a run nor a model, or both; options that do not go with it; see also `Run.subject`,
            `subject_of_model` and `with_prototype_head`.
        DataNotFoundError: the test images are not there.
    """
    if (options.run is None) == (options.model is None):
        raise UserError("name one thing to judge: a run folder, or --model with --data, --threat.eps and --out")
    if options.out is not None:
        check_folder(options.out)
    subject = _run(options) if options.run is not None else _model(parser, options)
    return with_prototype_head(subject, folder=options.out) if options.head == "prototypes" else subject


def check_weights_of_run(weights: str | None) -> None:
    """Refuses what names no weights of a run.

    Raises:
        ValueError: neither best, last nor None.
    """
    if weights not in (None, "best", "last"):
        raise UserError(f"--weights {weights!r} of a run is unknown; write best or last")


def _run(options: Namespace) -> Subject:
    for name in ("data", "groups", "mean", "std"):
        if options[name] is not None:
            raise UserError(f"--{name} goes with --model; a run brings its own")
    check_weights_of_run(options.weights)
    found = Run(options.run).subject(options.weights)
    eps, norm = options.threat.eps, options.threat.norm
    threat = ThreatModel(found.threat.eps if eps is None else eps, norm or found.threat.norm)
    given = {"--threat.eps": eps, "--threat.norm": norm, "--out": options.out}
    words = [word for option, value in given.items() if value is not None for word in (option, str(value))]
    named = (*(found.named or ()), *words)
    return replace(found, threat=threat, folder=options.out or found.folder, named=named)


def _model(parser: Parser, options: Namespace) -> Subject:
    given = {"--data": options.data, "--threat.eps": options.threat.eps, "--out": options.out}
    if missing := [name for name, value in given.items() if value is None]:
        raise UserError(f"--model also needs {', '.join(missing)}")
    return subject_of_model(
        options.model,
        weights=options.weights,
        data=parser.instantiate(options).data,
        groups=options.groups,
        threat=ThreatModel(options.threat.eps, options.threat.norm or "linf"),
        folder=options.out,
        mean=options.mean,
        std=options.std,
    )
