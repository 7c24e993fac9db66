"""A recipe: every choice of a run, as typed objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from protoat.arguments import check_epochs, check_number, check_seed, check_whole
from protoat.data import Augment, Groups, ImageData, Source
from protoat.errors import UserError
from protoat.methods import Method
from protoat.models import MultiPrototypeHead
from protoat.modes import Modes
from protoat.pretraining import Contrastive
from protoat.recipes.initialise import Initialise
from protoat.regularizers import Regularizer
from protoat.regularizers.terms import DMLInput, NormOf
from protoat.threats import ThreatModel
from protoat.training import EMA, Averaging, Schedule
from protoat.weighting import Weighting


@dataclass
class Recipe:
    """Every choice that could change the number a run ends with.

    Where a field is a class with some of its arguments (method, model, head, regularizer, modes, optimizer), the run
    supplies the others: threat model, number of classes, image shape, embedding size, images, parameters.

    Args:
        data: a data source, such as MNIST; `data.root` says where to look for its files.
        model: a network class taking (num_classes, in_channels, image_size).
        threat: what the adversary may do: `threat.eps` in pixels of [0, 1], written 0.3 or 8/255, and `threat.norm`.
        method: how adversarial examples enter training, such as PGDAT, FreeAT or FastAT; ACL or RoCL to pre-train.
        optimizer: any torch optimizer class; its lr and weight_decay are those of the network.
        epochs: passes over the data.
        batch_size: images for each step, of all processes together.
        groups: join classes into this many blocks, or superclasses, or {new name: [class names]}; none keeps them.
        long_tail: thin the modes of each class of the training images, the last to this many times fewer than the
            first; none keeps all.
        train_size: training images to draw, of each mode its share; none takes all.
        augment: padding and flip of training images; none takes the data source's own.
        validation_size: training images held out to choose the best checkpoint; 0 holds out none.
        validate_every: epochs between validations.
        validation_attack: what held-out images are attacked with, such as pgd20 or square500; none takes pgd10, or
            measures clean images for a method without attacks.
        select: which epoch is the best on held-out images, by robust accuracy over all or in the worst-mode.
        head: in place of the linear head, such as MultiPrototypeHead; none keeps it, or takes what `modes` need.
        regularizer: metric term such as SoftTriple, or none. Without it `weight` and `norm_weight` have no effect.
        weight: of the metric term, the paper's lambda_1.
        norm_weight: of the norm term, the paper's lambda_2.
        norm: what the norm term weighs, embedding or weights.
        dml_input: the embeddings the metric term sees, adv, clean or both.
        label_smoothing: share of each label that is spread over all classes, in the cross-entropy of method and modes.
        modes: which mode each training image has, known or discovered, see `KnownModes`; none trains on classes alone.
        weighting: of each image in the loss by its mode or class, group-dro (GroupDRO) or cfol (CFOL); none is off.
        prototype_lr_factor: learning rate of prototypes as a multiple of the network's.
        initialise: weights to start from, `initialise.run` or `initialise.weights`; none draws them from `seed`.
        schedule: learning rate over the run, such as StepDecay or Cyclic; none keeps it constant.
        averaging: decay of an exponential moving average of the weights, or a rule: EMA, SWA, FAWA; none is off.
        clip_norm: largest L2 norm of the gradient of a step; none clips nothing.
        evaluation_threat: threat model of `protoat evaluate`; none takes `threat`.
        seed: of everything random.
        precision: fp32, or mixed precision with fp16 or bf16.
        attack_precision: of the passes attacks make in training: fp32, bf16, or auto, whichever is faster here.
        compile: run the model through torch.compile.
        memory_format: layout of images in memory; none takes what is fastest, and safe, on the present device.
        checkpoint_every: also save inside an epoch, each time this many updates have passed.

    Raises:
        ValueError: a number out of range.

    Attributes:
        text: the whole recipe as YAML, defaults included: what a run folder keeps, and what makes two runs the same.
        trust: the user's own code that `text` names, and what they have named beside, by dotted names.
    """

    data: Source
    model: Callable[[int, int, int], nn.Module]
    threat: ThreatModel
    method: Callable[[ThreatModel], Method]
    optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer]
    epochs: int
    batch_size: int = 128
    groups: Groups | None = None
    long_tail: float | None = None
    train_size: int | None = None
    augment: Augment | None = None
    validation_size: int = 0
    validate_every: int = 1
    validation_attack: str | None = None
    select: Literal["robust", "worst-mode"] = "robust"
    head: Callable[[int, int], MultiPrototypeHead] | None = None
    regularizer: Callable[[int, int], Regularizer] | None = None
    weight: float = 0.5
    norm_weight: float = 0.0
    norm: NormOf = "embedding"
    dml_input: DMLInput = "adv"
    label_smoothing: float = 0.0
    modes: Callable[[ImageData], Modes] | None = None
    weighting: Weighting | None = None
    prototype_lr_factor: float = 1.0
    initialise: Initialise | None = None
    schedule: Schedule | None = None
    averaging: float | Averaging | None = None
    clip_norm: float | None = None
    evaluation_threat: ThreatModel | None = None
    seed: int = 0
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    attack_precision: Literal["fp32", "bf16", "auto"] = "fp32"
    compile: bool = False
    memory_format: Literal["contiguous", "channels_last"] | None = None
    checkpoint_every: int | None = None
    text: str = field(default="", init=False, repr=False)
    trust: tuple[str, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        check_epochs(self.epochs)
        check_whole(batch_size=self.batch_size)
        check_whole(validate_every=self.validate_every)
        check_seed(seed=self.seed)
        check_whole(0, "0 holds out no images", validation_size=self.validation_size)
        if self.long_tail is not None:
            check_number("(1, inf)", "none keeps all images", long_tail=self.long_tail)
        if self.train_size is not None:
            check_whole(1, "none takes all images", train_size=self.train_size)
        if self.clip_norm is not None:
            check_number("(0, inf)", "none clips nothing", clip_norm=self.clip_norm)
        if self.checkpoint_every is not None:
            check_whole(1, "none saves after epochs only", checkpoint_every=self.checkpoint_every)
        if isinstance(self.averaging, float):
            self.averaging = EMA(decay=self.averaging)

    def __str__(self) -> str:
        return self.text or repr(self)

    @property
    def pretrains(self) -> bool:
        """Whether the method is one of `protoat.pretraining`, which need no labels."""
        return isinstance(self.method(self.threat), Contrastive)


_ADVICE = "no run could be read from its recipe again; write letters, digits, spaces and ./~+,- alone"
KEYS = tuple(entry.name for entry in fields(Recipe) if entry.init)


def check_comes_back(recipe: Recipe, read: Callable[[], Recipe]) -> None:
    """Refuses arguments of the user's own classes that a stored recipe would not give back.

    Args:
        recipe: of a run that begins.
        read: reads it from its text.

    Raises:
        ValueError: names the argument.
    """
    try:
        later = _plain_arguments(read())
    except ValueError as error:
        raise UserError(f"{error}: {_ADVICE}") from error
    for name, value in _plain_arguments(recipe).items():
        if later.get(name) != value:
            raise UserError(f"{name}={value!r} would come back as {later.get(name)!r}: {_ADVICE}")


def _plain_arguments(recipe: Recipe) -> dict[str, Any]:
    """Texts, numbers, lists and mappings among the arguments of the classes of a recipe."""
    parts = {name: getattr(recipe, name) for name in KEYS}
    return {
        f"{name}.{key}": value
        for name, part in parts.items()
        if isinstance(part, partial)
        for key, value in part.keywords.items()
        if value is None or isinstance(value, str | bool | int | float | list | dict)
    }
