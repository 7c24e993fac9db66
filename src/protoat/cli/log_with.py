"""The option ``--log_with``: which trackers a command writes its results to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from protoat.names import printable
from protoat.recipes.parser import Parser
from protoat.storage.places import without_paths

if TYPE_CHECKING:
    from protoat.evaluation.probe import Probe
    from protoat.evaluation.record import Evaluation


def add_log_with(parser: Parser, what: str, *, usual: str = "none") -> None:
    """Adds the option.

    Args:
        what: is told.
        usual: what is told without the option.
    """
    parser.add_argument(
        "--log_with",
        nargs="+",
        type=str,
        metavar="TRACKER",
        help=f"tell trackers, such as tensorboard or wandb, {what}; a word that is none lists all. A resumed run goes "
        "on in the same run of a tracker. Nothing leaves this machine but where your settings of the tracker say so. "
        f"Default: {usual}",
    )


def check_log_with(trackers: Sequence[str] | None) -> None:
    """Refuses trackers that are unknown, or not installed, before any work.

    Raises:
        ValueError: says which, and what to install.
    """
    if trackers is not None:
        from protoat.training.trackers import check_loggers  # torch takes seconds to import, and help needs none

        check_loggers(trackers, "")


def tell(
    trackers: Sequence[str] | None,
    folder: Path,
    name: str,
    files: Sequence[Path],
    numbers: Mapping[str, float] = MappingProxyType({}),
    *,
    private: Collection[str] = (),
) -> None:
    """Adds to the run of each tracker that a folder is logged to, or begins one.

    Args:
        trackers: as `check_log_with` has checked; None tells nobody.
        folder: of a run, or of measurements.
        name: of what the files are.
        files: to be stored with the run, where a tracker has a place for them.
        numbers: of the whole run, by name.
        private: words that a page must not hold, see `protoat.storage.places.without_machine`.

    Raises:
        ValueError: see `Trackers.begin`; or another process is at work on the folder.
    """
    if not trackers:
        return
    from protoat.recipes.fingerprint import settings_of
    from protoat.runs.records import RunRecords
    from protoat.storage.locks import working_on
    from protoat.training.trackers import Trackers

    run = RunRecords(folder) if (folder / "recipe.yaml").is_file() else None
    settings = {} if run is None else settings_of(run.choices)
    with working_on(folder), Trackers(trackers, folder, settings, ended=run is None or run.complete) as told:
        told.begin()
        if numbers:
            told.log(dict(numbers))
        told.keep(name, files, private=private)


def numbers_of(record: Evaluation) -> dict[str, float]:
    """Accuracies, as fractions, under each attack: of all images, of each class and of each mode."""
    found = {}
    for name, entry in record.entries.items():
        attack = without_paths(name)  # of a transfer, which is called after another run
        found[f"evaluation/{attack}/accuracy"] = entry.count.accuracy
        for kind, counts in (("class", entry.per_class), ("mode", entry.per_mode))[: 1 + entry.has_modes]:
            found |= {f"evaluation/{attack}/{kind}/{printable(name)}": each.accuracy for name, each in counts.items()}
    return found


def numbers_of_heads(record: Probe) -> dict[str, float]:
    """Accuracies of linear heads, as fractions, by encoder, head and attack."""
    return {
        f"probe/{encoder}/{head}/{attack}/accuracy": found.count.accuracy
        for encoder, heads in record.encoders.items()
        for head, attacks in heads.items()
        for attack, found in attacks.items()
    }
