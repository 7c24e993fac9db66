"""``protoat push``."""

from __future__ import annotations

from pathlib import Path

from protoat.cli.say import say
from protoat.recipes.parser import Parser
from protoat.runs.claims import A_RUN
from protoat.runs.run import Run
from protoat.sharing.push import push


def main(args: list[str]) -> None:
    """Puts a run on the Hugging Face Hub: weights, recipe, records and a model card, but no code."""
    parser = Parser("protoat push")
    parser.add_argument("run", type=Path, help=A_RUN)
    parser.add_argument("repo", type=str, metavar="USER/NAME", help="repository; made where it is not there")
    parser.add_argument("--private", action="store_true", help="a repository that is made is private")
    parser.add_trust()
    options = parser.parse_args(args)
    pushed = push(Run(options.run, trust=options.trust), options.repo, private=options.private)
    say(f"{pushed.url} holds the run; hf://{options.repo}@{pushed.commit} is this commit")
