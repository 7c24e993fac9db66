"""The rows of the paper's tables and figures as jobs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

from protoat.paper.budget import Budget
from protoat.recipes.overrides import overlay
from protoat.recipes.parser import plain_pixels

if TYPE_CHECKING:
    from protoat.paper.job import Job

Overrides = Mapping[str, Any]  # changes of a recipe, as its file has them

_IMAGENET: Overrides = {"model": {"init_args": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}}
_AS_IN_THE_PAPER: Overrides = {"regularizer": {"init_args": {"projection": None, "gamma": 0.1, "drop_below": None}}}
_NOT_NORMALISED: Overrides = {"model": {"init_args": {"mean": None, "std": None}}}


@dataclass(frozen=True)
class Data:
    """A data set, and what the paper changes with it.

    Attributes:
        recipe: name of its recipe.
        label: as the paper calls it.
        name: part of the names of its runs.
        replays: of Free adversarial training (paper, section 4.2).
        fast_step: step size of Fast adversarial training, in radii of training, whatever a budget makes of these.
        pgd: changes of all rows but Fast and Free.
        ours: changes of rows with SoftTriple.
        finetune: changes of rows that start from an encoder.
        tla: recipe of TLA over it.
        encoder: recipe that pre-trains on it, with the place of ``acl`` or ``rocl``; none where the paper has none.
        encoder_data: class of data in place of that recipe's.
        acl, rocl: changes that give a finetuned network the normalisation of its encoder.
        study: changes of every row of the study of modes, which make a run short; None of the paper's data.
        strong: recipe of the strong base of that study over it.
    """

    recipe: str
    label: str
    name: str
    replays: int = 8
    fast_step: float = 1.0  # paper, section 4.2: 8/255
    pgd: Overrides = field(default_factory=dict, hash=False)
    ours: Overrides = field(default_factory=dict, hash=False)
    finetune: Overrides = field(default_factory=dict, hash=False)
    tla: str = "tla"
    encoder: str | None = "cifar10-{}"
    encoder_data: str | None = None
    acl: Overrides = field(default_factory=lambda: _IMAGENET, hash=False)
    rocl: Overrides = field(default_factory=lambda: _NOT_NORMALISED, hash=False)
    study: Overrides | None = field(default=None, hash=False)
    strong: str = "strong"

    @property
    def in_budgets(self) -> str:
        """By what name a budget changes it among its recipes."""
        return self.recipe if self.study is None else self.name


MNIST = Data(
    recipe="mnist",
    label="MNIST",
    name="mnist",
    replays=4,
    fast_step=1.25,  # as its authors; the paper's 8/255 would be a tenth of the radius
    finetune={"method": {"init_args": {"ramp_epochs": 1}}},
    tla="tla-mnist",
    encoder="mnist-{}",
    acl={},
    rocl={},
)
MNIST_2 = replace(MNIST, recipe="mnist-2", label="MNIST-2", name="mnist-2", ours=_AS_IN_THE_PAPER)
MNIST_AS_WRITTEN = replace(MNIST, name="mnist-as-written", pgd={"method": {"init_args": {"step_size": 0.01}}})
CIFAR10 = Data("cifar10", "CIFAR10", "cifar10")
CIFAR100 = Data("cifar100", "CIFAR100", "cifar100", encoder_data="CIFAR100")
CIFAR10_2 = replace(CIFAR10, recipe="cifar10-2", label="CIFAR10-2", name="cifar10-2")
CIFAR100_10 = replace(CIFAR100, recipe="cifar100-10", label="CIFAR100-10", name="cifar100-10")
TINY_IMAGENET = Data(
    "tiny-imagenet",
    "Tiny ImageNet",
    "tiny-imagenet",
    replays=4,
    fast_step=0.5,  # paper, section 4.2: 4/255
    tla="tla-tiny-imagenet",
    encoder=None,
)


@dataclass(frozen=True)
class Setup:
    """A way to train, on any of the data sets.

    Attributes:
        name: part of the names of its runs, and what ``--rows`` takes.
        method: what the method changes of the recipe of a data set, multi-prototype PGD-AT, at a budget.
        changes: further changes, such as another regularizer.
        layer: recipe that is laid over that of the data.
        start: what pre-trains the encoder it starts from, ``acl`` or ``rocl``.
        encoder: row whose run of the same seed gives the embeddings in which modes are discovered.
        baseline: the same without prototypes, to tell what these cost and bring.
        ceiling: what a gain over the baseline is a share of.
        recipes: of the data that there is such a row for; none names all.

    >>> from protoat.paper.budget import read_budget
    >>> FAST.job(MNIST, read_budget("paper"), seed=1).name
    'mnist-fast-paper-1'
    """

    name: str
    method: Callable[[Data, Budget], Overrides]
    changes: Overrides = field(default_factory=dict, hash=False)
    layer: Callable[[Data], str] | None = None
    start: str | None = None
    encoder: Setup | None = None
    baseline: Setup | None = None
    ceiling: Setup | None = None
    recipes: tuple[str, ...] = ()

    def trains_on(self, data: Data) -> bool:
        """Whether there is such a row for this data: the paper has no pre-training for Tiny ImageNet."""
        return data.recipe in (self.recipes or (data.recipe,)) and (self.start is None or data.encoder is not None)

    def job(self, data: Data, budget: Budget, *, seed: int) -> Job:
        """The run. Rows of all seeds start from one encoder, pre-trained with seed 0.

        A schedule that is part of the method stays at every budget, stretched over its epochs.
        """
        from protoat.paper.job import Job  # takes seconds, and tables are listed without

        matching = () if self.start is None else (data.finetune, data.acl if self.start == "acl" else data.rocl)
        method = self.method(data, budget)
        short = budget.overrides(data.in_budgets, keep={"schedule"} & method.keys())
        return Job(
            _slug(data.name, self.name, budget.name, str(seed)),
            (data.recipe,) if self.layer is None else (data.recipe, self.layer(data)),
            overlay(method, data.ours if self.layer is None else {}, self.changes, *matching, short, {"seed": seed}),
            *self._first(data, budget, seed),
        )

    def _first(self, data: Data, budget: Budget, seed: int) -> tuple[Job | None, Literal["weights", "embeddings"]]:
        """The run that comes first, and what is taken of it."""
        if self.encoder is not None:
            return self.encoder.job(data, budget, seed=seed), "embeddings"
        return None if self.start is None else _encoder(self.start, data, budget), "weights"


def _encoder(start: str, data: Data, budget: Budget) -> Job:
    from protoat.paper.job import Job

    assert data.encoder is not None
    recipe = data.encoder.format(start)
    images = data.encoder_data or recipe.partition("-")[0]
    named = {} if data.encoder_data is None else {"data": {"class_path": data.encoder_data}}
    overrides = overlay(named, budget.overrides(recipe, pretrains=True), {"seed": 0})
    return Job(_slug(images.lower(), start, budget.name), (recipe,), overrides)


def _slug(*parts: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", "-".join(parts)).strip("-")


_DAWNBENCH: Overrides = {
    "optimizer": {"init_args": {"lr": 0.2}},
    "schedule": {"class_path": "Cyclic", "init_args": {"lr_min": 0.001}},
    "epochs": 15,
}
_ALONE: Overrides = {"regularizer": None}


def _pgd(data: Data, budget: Budget) -> Overrides:
    return data.pgd


def _trades(data: Data, budget: Budget) -> Overrides:
    return overlay({"method": {"class_path": "TRADES"}}, data.pgd)


def _free(data: Data, budget: Budget) -> Overrides:
    return {"method": {"class_path": "FreeAT", "init_args": {"replays": data.replays}}, **_DAWNBENCH}


def _fast(data: Data, budget: Budget) -> Overrides:
    step = plain_pixels(data.fast_step * _radius(data, budget))
    return {"method": {"class_path": "FastAT", "init_args": {"step_size": step}}, **_DAWNBENCH}


def _radius(data: Data, budget: Budget) -> float:
    """Of training on the data at a budget."""
    from protoat.paper.job import Job

    return Job(data.name, (data.recipe,), budget.overrides(data.recipe)).recipe.threat.eps


FAST = Setup("fast", _fast, _ALONE)
FREE = Setup("free", _free, _ALONE)
FREE_SLOW = Setup(
    "free-slow",
    _free,
    {"optimizer": {"init_args": {"lr": 0.04}}, "schedule": {"init_args": {"lr_min": 0}}, **_ALONE},
    recipes=("mnist",),
)
PGD = Setup("pgd", _pgd, _ALONE)
TLA = Setup("tla", _pgd, layer=attrgetter("tla"))
ROCL = Setup("rocl", _pgd, _ALONE, start="rocl")
ACL = Setup("acl", _trades, _ALONE, start="acl")
OURS = Setup("ours", _pgd, baseline=PGD)
OURS_FREE = Setup("ours-free", _free, baseline=FREE)
OURS_FAST = Setup("ours-fast", _fast, baseline=FAST)
OURS_ACL = Setup("ours-acl", _pgd, start="acl")
NPAIR = Setup("npair", _pgd, layer=lambda data: "npair")
PROXY_NCA = Setup("proxy-nca", _pgd, layer=lambda data: "proxy-nca")
PROXY_ANCHOR = Setup("proxy-anchor", _pgd, layer=lambda data: "proxy-anchor")


def with_prototypes(*counts: int) -> Setup:
    """Ours with so many prototypes for each class, one number or one for each class, which never merge."""
    given = counts[0] if len(set(counts)) == 1 else list(counts)  # written alike, so that it is trained once
    arguments = {"prototypes_per_class": given, "merge_threshold": 0}
    return Setup(f"ours-{'-'.join(map(str, counts))}", _pgd, {"regularizer": {"init_args": arguments}})


SINGLE_MODE = replace(with_prototypes(1), name="single-mode")


def with_weight(weight: float) -> Setup:
    """Ours with another weight of the metric term."""
    return Setup(f"ours-weight-{weight}", _pgd, {"weight": weight})
