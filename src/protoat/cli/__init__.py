"""The command line: ``protoat COMMAND``. Nothing heavy is imported before the command is known."""

from __future__ import annotations

import sys
from importlib import import_module

from protoat._version import __version__
from protoat.names import nearest

__all__ = ["main"]

_COMMANDS = {
    "demo": "train plainly and with modes on small real images, and compare; two minutes, no download",
    "train": "train a recipe into a run folder, or resume it",
    "pretrain": "pre-train an encoder without labels (ACL, RoCL), for train --initialise.run",
    "evaluate": "attack a run or any other model and write evaluation.json",
    "audit": "look for masked gradients in a model and for holes in its evaluation; write audit.json",
    "compare": "evaluations of the same images: differences, and whether they are more than chance",
    "table": "a table of the paper: do what runs are missing at a budget, and print its numbers beside ours",
    "figure": "a figure of the paper, or of runs, as HTML that opens from disk",
    "report": "one or several runs as one HTML file: attacks, modes, prototypes, map, audit, how to redo it",
    "predict": "the class of pictures, by a run",
    "export": "the model of a run as ONNX, torch or safetensors, with a model card",
    "push": "a run to the Hugging Face Hub: weights, recipe, records and a model card",
    "pull": "a run from the Hugging Face Hub into a folder of its own",
    "show": "one run: recipe, training, prototypes, evaluation",
    "ls": "all runs below a folder",
    "rm": "remove run folders",
    "gc": "remove what complete runs no longer need",
    "data": "data sets: where each is looked for, whether it is there; download",
}


def main(args: list[str] | None = None) -> int:
    """Runs one command; returns 0, 1 for a failed audit or run, 2 for a mistake of the user's, or 128 + signal."""
    own_process = args is None
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help", "help"):
        return _say(_help())
    if args[0] == "--version":
        return _say(f"protoat {__version__}")
    if args[0] == "--completion":
        return int(import_module("protoat.cli.outcome").run("--completion", _complete, args[1:]))
    command, *rest = args
    if command not in _COMMANDS:
        hint = nearest(command, _COMMANDS, instead=f"write one of {', '.join(_COMMANDS)}")  # in the order of --help
        print(f"protoat: error: command {command[:60]!r} is unknown; {hint}", file=sys.stderr)
        return 2
    run = import_module("protoat.cli.outcome").run
    return int(run(command, import_module(f"protoat.cli.{command}").main, rest, own_process=own_process))


def _say(text: str) -> int:
    try:
        print(text, flush=True)
    except OSError:  # no reader, or a full disk: said as of any command, whose machinery takes long to import
        return int(import_module("protoat.cli.outcome").run("--help", lambda _: print(text), []))
    return 0


def _complete(words: list[str]) -> None:
    print(import_module("protoat.cli.completion").script(words, tuple(_COMMANDS)), end="")


def _help() -> str:
    lines = [f"  {name:<10}{text}" for name, text in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: protoat COMMAND [--help] ...",
            "",
            "Multi-prototype adversarial training, and an honest measurement of how robust its models are.",
            "",
            *lines,
            "",
            "protoat COMMAND --help explains a command; protoat --version prints the version;",
            "protoat --completion bash, zsh or fish prints a script that completes commands and options.",
            "Every command takes -q (results and warnings alone), --json (results as one JSON document)",
            "and --traceback (an error shows where it came from).",
        ]
    )
