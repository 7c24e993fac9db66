"""``protoat demo``: what known and discovered modes do for the worst mode of small real images."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from statistics import fmean

import torch

from protoat.cli.printing import print_table
from protoat.cli.say import say
from protoat.evaluation import AttackReport
from protoat.recipes.parser import Parser
from protoat.recipes.reading import read_recipe
from protoat.runs.cores import choosing_threads
from protoat.runs.images import training_images
from protoat.runs.measure import measure
from protoat.runs.run import Run
from protoat.runs.train import train

_SEEDS = (0, 1, 2)
_ATTACKS = ("clean", "pgd50")
_PLAIN, _KNOWN, _DISCOVERED = "PGD-AT", "modes known", "modes discovered"
_WEIGHTS = ("--weighting", "group-dro")
# Modes are discovered in the run of PGD-AT of the same seed: clusters of its embeddings, without any label of modes.
_WAYS = {
    _PLAIN: (),
    _KNOWN: ("--modes", "known", *_WEIGHTS),
    _DISCOVERED: ("--modes", "discovered", "--modes.clusters", "10", *_WEIGHTS),
}


def main(args: list[str]) -> None:
    """Trains plainly, with known and with discovered modes over three seeds, attacks all, and compares mode by mode."""
    parser = Parser("protoat demo")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the runs")
    out = parser.parse_args(args).out
    logging.getLogger("protoat").setLevel(logging.WARNING)
    torch.set_num_threads(1)  # so that everybody sees the same numbers; for 8x8 pixels a second one brings nothing
    started = time.perf_counter()
    say(
        "real 8x8 digits in two classes, even and odd, of five modes each; of some digits there are 16 times more "
        "training images than of others; an attack moves each pixel by at most 0.05"
    )
    runs: dict[str, list[Run]] = {way: [] for way in _WAYS}
    with choosing_threads(None):
        for seed in _SEEDS:
            for way in _WAYS:
                runs[way].append(_run(way, seed, out))
    _compare(runs)
    _by_mode(runs)
    plain, known = runs[_PLAIN][0].path, runs[_KNOWN][0].path
    seconds = time.perf_counter() - started
    say(f"{seconds:.0f} s; files are in {out}; next: protoat compare {plain} {known}, which tests the difference")


def _run(way: str, seed: int, out: Path) -> Run:
    folder = _folder(way, seed, out)
    say(f"training {way}, seed {seed}, into {folder}", flush=True)
    encoder = ("--modes.encoder", str(_folder(_PLAIN, seed, out))) if way == _DISCOVERED else ()
    train(
        read_recipe("digits-lt", ["--regularizer", "none", "--seed", str(seed), *_WAYS[way], *encoder]),
        folder,
        progress=False,
    )
    measure(Run(folder).subject(), list(_ATTACKS))
    return Run(folder)


def _folder(way: str, seed: int, out: Path) -> Path:
    return out / f"{way.lower().replace(' ', '-')}-{seed}"


def _measured(run: Run, attack: str) -> AttackReport:
    assert run.evaluation is not None
    return run.evaluation[attack]


def _worst(run: Run, attack: str) -> float:
    return _measured(run, attack).worst_mode[1].accuracy


def _compare(runs: dict[str, list[Run]]) -> None:
    """Accuracy under each attack, over all images and in the worst mode, of each way to train."""
    rows = []
    for attack in _ATTACKS:
        rows.append([attack, *(_spread([_measured(run, attack).accuracy for run in own]) for own in runs.values())])
    for attack in _ATTACKS:
        rows.append(
            [f"{attack}, worst mode", *(_spread([_worst(run, attack) for run in own]) for own in runs.values())]
        )
    print_table(f"accuracy on 500 test images, %: mean of {len(_SEEDS)} seeds [least, most]", ["attack", *runs], rows)
    plain = [_worst(run, "pgd50") for run in runs[_PLAIN]]
    for way in (_KNOWN, _DISCOVERED):
        higher = sum(_worst(run, "pgd50") > than for run, than in zip(runs[way], plain, strict=True))
        say(f"{way}: the worst mode under pgd50 is above that of {_PLAIN} in {higher} of {len(_SEEDS)} seeds")


def _by_mode(runs: dict[str, list[Run]]) -> None:
    """Accuracy under the strongest attack in each mode, beside the images that it was trained on."""
    images, _ = training_images(read_recipe("digits-lt"))
    counts = dict(zip(images.mode_names, images.modes.bincount(minlength=len(images.mode_names)).tolist(), strict=True))
    rows = []
    for mode in sorted(counts, key=lambda mode: counts[mode]):
        shares = ([_measured(run, "pgd50").per_mode[mode].accuracy for run in own] for own in runs.values())
        rows.append([mode, str(counts[mode]), *map(_spread, shares)])
    print_table("the same for each mode, pgd50, rarest first", ["digit", "training images", *runs], rows)


def _spread(shares: list[float]) -> str:
    return f"{100 * fmean(shares):.1f} [{100 * min(shares):.1f}, {100 * max(shares):.1f}]"
