"""Puts a run on the Hugging Face Hub: weights, recipe, records and a model card."""

from __future__ import annotations

import json
import logging
from typing import Any, NamedTuple

from protoat.errors import UserError
from protoat.runs.hub import RECORDS, REQUIRED, WEIGHTS, Reference, asking, listing
from protoat.runs.run import Run
from protoat.sharing.card import CARD, card, current_audit
from protoat.storage.files import open_to_read
from protoat.storage.manifest import MANIFEST, manifest_of, read_record_bytes
from protoat.storage.parsing import parse_json, parse_yaml
from protoat.storage.path_checks import check_holds_no_others
from protoat.storage.places import local_paths, without_places

logger = logging.getLogger(__name__)

_OURS = (MANIFEST, *RECORDS, *WEIGHTS, CARD)
_OF_ANY_REPOSITORY = (".gitattributes",)


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
        private: a repository that is made is private, and a public one is refused.

    Raises:
        ValueError: a run that has not ended, or a damaged one; a repository of something else, or a public one; no
            permission; the Hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    reference = Reference.of(repo)
    if reference.revision is not None:
        raise UserError(f"{repo}: a run is pushed to the main branch; leave out @{reference.revision}")
    contents = _contents(run)
    if paths := sorted({path for name, content in contents.items() for path in local_paths(_read(name, content))}):
        logger.warning(
            "the recipe and records name paths of this machine, which others will read: %s", ", ".join(paths)
        )
    contents |= {MANIFEST: manifest_of(contents), CARD: card(run, repo=reference.repo).encode()}
    with asking(reference, to="write"):
        url = HfApi().create_repo(reference.repo, private=private or None, exist_ok=True)
    there = listing(reference)
    if private and not there.private:
        raise UserError(
            f"{reference.repo} on the Hub is there already and public; choose another name, or make it private there"
        )
    names = set(there.sizes) - set(_OF_ANY_REPOSITORY)
    ours = _OURS if names.issuperset(REQUIRED) else ()
    check_holds_no_others(f"{reference.repo} on the Hub", names, ours, of="run", instead="name")
    stale = [name for name in _OURS if name in there.sizes and name not in contents]
    operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
    with asking(reference, to="write"):
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


def _read(name: str, content: bytes) -> Any:
    """Plain values of a file that goes to the Hub; none of weights."""
    if name.endswith(".jsonl"):
        return [parse_json(line) for line in content.splitlines()]
    return parse_json(content) if name.endswith(".json") else parse_yaml(content) if name.endswith(".yaml") else None
