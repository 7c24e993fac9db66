"""Puts a run on the Hugging Face Hub: weights, recipe, records and a model card."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from protoat.errors import UserError
from protoat.runs.hub import RECORDS, WEIGHTS, Reference, asking, listing
from protoat.runs.run import Run
from protoat.sharing.card import card, current_audit
from protoat.storage.manifest import MANIFEST, manifest_of, read_record_bytes
from protoat.storage.parsing import parse_json
from protoat.storage.reading import open_to_read

__all__ = ["Pushed", "push", "without_places"]

logger = logging.getLogger(__name__)

CARD = "README.md"
_OURS = (MANIFEST, *RECORDS, *WEIGHTS, CARD)
_OF_ANY_REPOSITORY = (".gitattributes",)
_PLACES = ("machine", "platform")


class Pushed(NamedTuple):
    """A run on the Hub.

    Attributes:
        url: of its page.
        commit: that holds it; ``hf://user/name@commit`` is it for good.
    """

    url: str
    commit: str


def push(run: Run, repo: str, *, private: bool = False) -> Pushed:
    """Puts a run on the Hugging Face Hub, in one commit: its weights, recipe, records and a model card.

    Of the weights those go that count: the best on held-out images where there are such, else the last. Names of
    machines and paths of programs are left out of the records. No code goes with it: who loads a run whose recipe names
    code that is not protoat's must have that code and trust it.

    Args:
        run: trained to its end.
        repo: ``user/name``, made where it is not there; one that holds other files than those of a run is refused. You
            must be logged in: ``hf auth login``, or ``HF_TOKEN``.
        private: of a repository that is made.

    Raises:
        ValueError: a run that has not ended, or a damaged one; a repository of something else; no permission; the Hub
            cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    reference = Reference.of(repo)
    if reference.revision is not None:
        raise UserError(f"{repo}: a run is pushed to the main branch; leave out @{reference.revision}")
    contents = _contents(run)
    contents |= {MANIFEST: manifest_of(contents), CARD: card(run, repo=reference.repo).encode()}
    if paths := sorted(set(_local_paths([run.choices, without_places(run.facts)]))):
        logger.warning(
            "the recipe and records name paths of this machine, which others will read: %s", ", ".join(paths)
        )
    with asking(reference):
        url = HfApi().create_repo(reference.repo, private=private or None, exist_ok=True)
    there = listing(reference)
    _check_holds_no_others(reference, there.sizes)
    stale = [name for name in _OURS if name in there.sizes and name not in contents]
    operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
    with asking(reference):
        commit = HfApi().create_commit(
            reference.repo,
            [*operations, *map(CommitOperationDelete, stale)],
            commit_message=f"{run.name}, by protoat",
            parent_commit=there.commit,  # what another has put there meanwhile is not written over
        )
    return Pushed(str(url), commit.oid)


def _contents(run: Run) -> dict[str, bytes]:
    """Files of a run as they are to be read by anybody.

    Raises:
        ValueError: it has not ended, or one is damaged.
    """
    if not run.complete or run.is_record:
        why = "its weights are not there" if run.is_record else f"{run.progress} epochs are done"
        raise UserError(f"{run.path} cannot be pushed: {why}; train it to the end: protoat train")
    run.check()
    weights = run.weights()
    current = {
        "evaluation.json": run.evaluation is not None and not run.outdated,
        "audit.json": current_audit(run) is not None,
        "probe.json": run.probe is not None,
    }
    contents = {}
    for name in RECORDS:
        if not (run.path / name).is_file() or not current.get(name, True):
            continue
        content = read_record_bytes(run.path / name, lines=name.endswith(".jsonl"))
        if name.endswith(".json"):
            content = json.dumps(without_places(parse_json(content)), indent=1).encode()
        contents[name] = content
    with open_to_read(weights.path) as file:
        contents[weights.path.name] = file.read()
    return contents


def without_places(value: Any) -> Any:
    """The same plain values without names of machines, and commands without the path of the program.

    >>> without_places([{"machine": "mine", "command": ["/home/me/bin/protoat", "train"]}])
    [{'machine': '', 'command': ['protoat', 'train']}]
    """
    if isinstance(value, list):
        return [without_places(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    found = {key: "" if key in _PLACES else without_places(entry) for key, entry in value.items()}
    if isinstance(command := value.get("command"), list) and command:
        found["command"] = ["protoat", *command[1:]]
    return found


def _local_paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for entry in value:
            yield from _local_paths(entry)
    elif isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~")):
        yield value


def _check_holds_no_others(reference: Reference, names: Any) -> None:
    """Refuses a repository with files that no push wrote.

    Raises:
        ValueError: names one of them.
    """
    others = sorted(set(names) - {*_OURS, *_OF_ANY_REPOSITORY})
    if CARD in names and "recipe.yaml" not in names:
        others.append(CARD)
    if others:
        raise UserError(f"{reference.repo} on the Hub holds {others[0]}, which is of no run; choose another name")
