"""Rows of the study of modes: plain training, prototypes, known and discovered modes, with and without weights.

All train alike but for what a row is about, on few images, so that a run takes minutes on one core.
"""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import Any

from protoat.paper.budget import Budget
from protoat.paper.rows import Data, Overrides, Setup
from protoat.paper.tables.notes import Note
from protoat.paper.tables.table import CLEAN, WORST_CASE, Line, Table, under


def _class(name: str, **arguments: Any) -> Overrides:
    return {"class_path": name, "init_args": arguments}


_MNIST: Overrides = {
    "train_size": 10_000,
    "threat": {"eps": 0.2},
    "method": {"init_args": {"ramp_epochs": 4}},
    "optimizer": {"class_path": "Adam", "init_args": {"lr": 1.0e-3}},
    "schedule": {"class_path": "StepDecay", "init_args": {"milestones": [0.7]}},
    "epochs": 10,
}
_LONG_TAIL: Overrides = {"long_tail": 16, "train_size": 8000}
_PARITY: Overrides = {"groups": {"even": list("02468"), "odd": list("13579")}}
_COLOUR: Overrides = {
    "augment": {"padding": 0},
    "threat": {"eps": "1/255"},
    "method": {"class_path": "NFGSM", "init_args": {"ramp_epochs": 2}},
    "optimizer": {"class_path": "Adam", "init_args": {"lr": 2.0e-3}},
    "schedule": {"class_path": "StepDecay", "init_args": {"milestones": [0.7]}},
    "epochs": 12,
}
_CIFAR: Overrides = {
    **_COLOUR,
    "model": _class("LeNet", mean=[0.4914, 0.4822, 0.4465], std=[0.2471, 0.2435, 0.2616]),
}
_TINY: Overrides = {
    **_COLOUR,
    "data": _class("TinyImageNet", image_size=32),
    "evaluation_threat": None,
    "model": _class("LeNet", mean=[0.4802, 0.4481, 0.3975], std=[0.2770, 0.2691, 0.2821]),
    # Under Adam all units of the embedding are zero at 4 % of the images, which then have no gradient.
    "optimizer": _class("SGD", lr=0.05, momentum=0.9, weight_decay=5.0e-4),
    "batch_size": 128,
    "validation_size": 1000,
}
BLOCKS = Data("mnist-2", "MNIST-2", "modes-mnist-2", study=_MNIST, strong="strong-mnist")
PARITY = replace(BLOCKS, label="MNIST odd/even", name="modes-mnist-parity", study={**_MNIST, **_PARITY})
BLOCKS_LT = replace(BLOCKS, label="MNIST-2-LT", name="modes-mnist-2-lt", study={**_MNIST, **_LONG_TAIL})
PARITY_LT = replace(
    BLOCKS_LT, label="MNIST odd/even-LT", name="modes-mnist-parity-lt", study={**_MNIST, **_LONG_TAIL, **_PARITY}
)
DIGITS_2 = Data("digits-2", "digits-2", "modes-digits-2", study={})
DIGITS_2_LT = replace(DIGITS_2, label="digits-2-LT", name="modes-digits-2-lt", study={"long_tail": 4})
DIGITS_PARITY_LT = Data("digits-lt", "digits odd/even-LT", "modes-digits-parity-lt", study={})
CIFAR = Data("cifar10-2", "CIFAR10-2", "modes-cifar10-2", study=_CIFAR)
# Where the pictures are JPEG files, in folders of classes below train and test.
CIFAR_JPEG = replace(
    CIFAR,
    label="CIFAR10-2 (JPEG)",
    name="modes-cifar10-2-jpeg",
    study={**_CIFAR, "data": _class("ImageFolder", path="cifar10-images")},
)
TINY = Data("tiny-imagenet-2", "Tiny ImageNet-2", "modes-tiny-imagenet-2", study=_TINY)
DATA = (BLOCKS, PARITY, BLOCKS_LT, PARITY_LT, DIGITS_2, DIGITS_2_LT, DIGITS_PARITY_LT, CIFAR, CIFAR_JPEG, TINY)


def _plain(data: Data, budget: Budget) -> Overrides:
    return data.study or {}


def _strong(data: Data, budget: Budget) -> Overrides:
    """The strong base brings its method; data, network and length are as over the plain one."""
    return {key: value for key, value in _plain(data, budget).items() if key != "method"}


def _soft_triple(**arguments: Any) -> Overrides:
    return {"regularizer": {"init_args": arguments}}


_ALONE: Overrides = {"regularizer": None}
# Groups are modes where a row has them, else classes.
_WEIGHTS: Overrides = {"weighting": _class("GroupDRO")}
# Without mode labels nobody knows how many modes there are, so classes of five have ten prototypes.
_WAYS: dict[str, tuple[str, Overrides]] = {
    "plain": ("Plain", _ALONE),
    "soft-triple": ("SoftTriple, as in the paper", _soft_triple(projection=None, gamma=0.1, drop_below=None)),
    "soft-triple-projected": (
        "SoftTriple, projection, gamma 0.1",
        _soft_triple(projection="batchnorm", gamma=0.1),
    ),
    "soft-triple-shared": (
        "SoftTriple, projection, gamma 0.3",
        _soft_triple(projection="batchnorm", gamma=0.3),
    ),
    "soft-triple-kmeans": (
        "SoftTriple, projection, gamma 0.3, k-means",
        _soft_triple(projection="batchnorm", gamma=0.3, prototype_init="kmeans"),
    ),
    "logsumexp": ("Logsumexp head", {**_ALONE, "head": _class("MultiPrototypeHead", prototypes_per_class=10)}),
    "known": ("Known modes", {**_ALONE, "modes": _class("KnownModes")}),
    "discovered": ("Discovered modes", {**_ALONE, "modes": _class("DiscoveredModes", clusters=10)}),
    # A trained network tells rare modes apart in twice as many clusters.
    "discovered-plain": (
        "Modes discovered in the plain run",
        {**_ALONE, "modes": _class("DiscoveredModes", clusters=20)},
    ),
}


def _rows(base: Setup) -> tuple[Line, ...]:
    """Every way to train over a base, each compared with plain training and with the ceiling, known modes."""
    start = "strong-" * (base.layer is not None)
    ways = {
        name + suffix: (label + ending, {**changes, **more})
        for suffix, ending, more in (("", "", {}), ("-weights", ", group weights", _WEIGHTS))
        for name, (label, changes) in _WAYS.items()
    }
    setups = {name: replace(base, name=start + name, changes=changes) for name, (_, changes) in ways.items()}
    plain, ceiling = setups["plain"], replace(setups["known"], baseline=setups["plain"])
    compared = {name: replace(setup, baseline=plain, ceiling=ceiling) for name, setup in setups.items()}
    compared |= {"plain": plain, "known": ceiling}
    for name in ("discovered-plain", "discovered-plain-weights"):
        compared[name] = replace(compared[name], encoder=plain)
    return tuple(Line(label, compared[name]) for name, (label, _) in ways.items())


def study(base: str, rows: tuple[Line, ...]) -> Table:
    """The table of the rows over a base, with a sheet for each data set."""
    columns = (
        CLEAN,
        Line("Robust", attack=WORST_CASE),
        Line("Balanced", attack=WORST_CASE, read="balanced accuracy"),
        Line("Worst mode", attack=WORST_CASE, read="worst mode"),
        Line("Gain", attack=WORST_CASE, read="gain"),
        Line("Gain in worst mode", attack=WORST_CASE, read="gain in worst mode"),
        Line("Share of ceiling", attack=WORST_CASE, read="share of ceiling"),
        Line("Share in worst mode", attack=WORST_CASE, read="share of ceiling in worst mode"),
    )
    return Table(
        title=f"What modes bring over a base of {base}: accuracy (%) under AutoAttack and attacks on prototypes",
        rows=rows,
        columns=tuple(column for data in DATA for column in under(data, columns)),
        notes=_NOTES,
    )


_NOTES = (
    Note("The paper has no such table; these rows are short runs of their own, the same at budgets cpu and paper."),
    Note(
        "MNIST, two classes of five digits: LeNet, 10,000 training images, L-inf 0.2, Adam, 10 epochs.",
        data=("modes-mnist-2", "modes-mnist-parity"),
    ),
    Note(
        "MNIST, LT: 8,000 training images, drawn after the modes are thinned, the rarest of a class to a 16th of the "
        "most frequent; test images are not thinned. LeNet, L-inf 0.2, Adam, 10 epochs.",
        data=("modes-mnist-2-lt", "modes-mnist-parity-lt"),
    ),
    Note("digits-2: the recipe of this name, L-inf 0.1.", data=("modes-digits-2*",)),
    Note(
        "digits-2-LT: the rarest digit of a class has a quarter of the training images of the most frequent.",
        data=("modes-digits-2-lt",),
    ),
    Note(
        "digits odd/even-LT: the recipe digits-lt, L-inf 0.05; the rarest digit of a class has a 16th of the training "
        "images of the most frequent.",
        data=("modes-digits-parity-lt",),
    ),
    Note(
        "CIFAR10-2, two classes of five classes of CIFAR-10: LeNet, all training images, flipped and not cropped, "
        "L-inf 1/255, Adam, 12 epochs.",
        data=("modes-cifar10-2*",),
    ),
    Note(
        "Tiny ImageNet-2, animals and things of five modes each: LeNet, 32 x 32 pixels, all training images that are "
        "there, flipped and not cropped, L-inf 1/255, SGD, 12 epochs.",
        data=("modes-tiny-imagenet-2",),
    ),
    Note(
        "Training attacks: PGD-7 on MNIST, its radius grown over 4 epochs, and on digits; N-FGSM on CIFAR and "
        "Tiny ImageNet, its radius grown over 2.",
        setups=("[!s]*", "soft-*"),
    ),
    Note(
        "Robust: right under every attack of AutoAttack and, of runs with prototypes in the head or of SoftTriple, "
        "under the attacks that know these. Balanced: mean over classes.",
        attacks=(WORST_CASE,),
    ),
    Note(
        "Gains are over the row Plain of the same seed, on the same images; in the worst mode, the least accuracy of a "
        "mode less the least there, which may be of another mode.",
        reads=("gain*", "share*"),
    ),
    Note(
        "The ceiling is the row Known modes: what true labels of modes bring. Where they bring nothing, no method that "
        "finds modes can.",
        reads=("share*",),
    ),
)
ROWS = _rows(Setup("plain", _plain))
STRONG_ROWS = _rows(Setup("strong", _strong, layer=attrgetter("strong")))
