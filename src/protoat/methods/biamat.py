"""BiaMAT: an auxiliary data set beside the primary one."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoat.arguments import check_number
from protoat.attacks import BatchNormMode
from protoat.attacks.kl import TPGD
from protoat.attacks.mode import attacking
from protoat.data import ImageData, Source
from protoat.data.batch_format import float_type
from protoat.errors import UserError
from protoat.functional.consistency import kl_divergence, uniform_cross_entropy
from protoat.functional.distributed import mean_over_processes, unwrap_model
from protoat.functional.forward import device_of, output_of
from protoat.functional.images import unit_pixels
from protoat.functional.precision import at_least_float32, float_types
from protoat.methods.base import Examples, OneStep, clean_of
from protoat.methods.trades import trades_loss
from protoat.pixels import Pixels
from protoat.spelling import argument, setting
from protoat.threats import ThreatModel
from protoat.types import Forwards, Output

_OUTSIDE = -1


class BiaMAT(OneStep):
    """TRADES on the primary images + `alpha` x TRADES on as many images of an auxiliary data set, over one backbone.

    A gate looks at each auxiliary image with the primary head: where its confidence is below `gamma` x the mean
    confidence on primary images, the image is taken as foreign and the primary head is to be undecided about it;
    elsewhere an auxiliary head of its own learns the auxiliary label. That head belongs to the method and takes part in
    training; the model is deployed as it is.

    One step costs twice that of `TRADES` (both batches pass through the network together) and one forward for the gate.

    Args:
        threat: norm and radius.
        auxiliary: labelled images of the same size and number of channels: a data source, whose training images are
            read and augmented in its own way, or in a program `ImageData`, used as it is.
        alpha: weight of the auxiliary loss (authors: 0.5).
        gamma: threshold of the gate, relative to the mean confidence on the first primary batch after warm-up
            (authors: 0.5).
        beta: weight of the divergence in each TRADES loss (authors: 6).
        warmup_epochs: epochs in which the auxiliary loss has no weight, though its images pass through the network
            (authors: 5).
        steps: gradient steps of the attack (authors: 10).
        step_size: length of a step in pixels; default ``eps / 4`` (authors: 0.007 at 0.031).
        bn: batch norm while attacking: ``eval`` uses the running statistics, ``train`` the batch's, moving the running
            ones, and ``train_frozen`` the batch's, moving nothing.
        ramp_epochs: epochs over which radius and step grow from 0.

    Raises:
        ValueError: no auxiliary set, a negative `alpha`, `beta` or `warmup_epochs`, `gamma` outside (0, 1], or, in use,
            images of another shape or a model without embeddings.

    Source: Lee et al., "Inducing Data Amplification Using Auxiliary Datasets in Adversarial Training", with the
    authors' values for CIFAR-10; that form serves every primary set, where their CIFAR-100 script has plain adversarial
    training on the auxiliary head. Deviations: auxiliary images are drawn at random with replacement; batches that lie
    wholly on one side of the gate, on which their code stops, are handled like all others. They train on raw pixels: no
    normalisation in the model.

    >>> from protoat.threats import Linf
    >>> BiaMAT(Linf("8/255"))
    Traceback (most recent call last):
    protoat.errors.UserError: BiaMAT needs an auxiliary data set: auxiliary=CIFAR100(), or --method.auxiliary CIFAR100
    """

    memory: ClassVar[tuple[str, ...]] = ("threshold",)
    threshold: Tensor | None

    def __init__(
        self,
        threat: ThreatModel,
        *,
        auxiliary: Source | ImageData | None = None,
        alpha: float = 0.5,
        gamma: float = 0.5,
        beta: float = 6.0,
        warmup_epochs: float = 5.0,
        steps: int = 10,
        step_size: Pixels | None = None,
        bn: BatchNormMode = "eval",
        ramp_epochs: float = 0.0,
    ) -> None:
        super().__init__(threat, ramp_epochs=ramp_epochs)
        if auxiliary is None:
            raise UserError("BiaMAT needs an auxiliary data set: auxiliary=CIFAR100(), or --method.auxiliary CIFAR100")
        check_number("[0, inf)", alpha=alpha, beta=beta, warmup_epochs=warmup_epochs)
        check_number("(0, 1]", "0.5 is half the mean confidence on primary images", gamma=gamma)
        self.attack = TPGD(threat, steps=steps, step_size=step_size, bn=bn)
        self.auxiliary = auxiliary
        self.alpha = alpha
        self.gamma = gamma
        self.beta = beta
        self.warmup_epochs = warmup_epochs
        self.head: nn.Linear | None = None
        self._images: ImageData | None = None

    def unreached(self, epochs: int) -> list[str]:
        if self.warmup_epochs < epochs:
            return super().unreached(epochs)
        return [
            *super().unreached(epochs),
            f"the auxiliary loss never has a weight ({setting(warmup_epochs=self.warmup_epochs)}); "
            f"write {argument('warmup_epochs')} of at most {epochs - 1}",
        ]

    def prepare(self, model: nn.Module) -> None:
        self._auxiliary_head(model)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor) -> Examples:
        network = unwrap_model(model)
        generator = self.generator(x)
        other, labels = self._draw(x, generator)
        inside = self._gate(network, x, other)
        labels = labels.where(inside, _OUTSIDE)
        # In eval mode images do not meet in batch norm, so each part is attacked on the head that is to learn it.
        primary = torch.cat([x, other[~inside]])
        primary_adv = self._attacked(network, primary, generator)
        other_adv = other.clone()
        other_adv[~inside] = primary_adv[len(x) :]
        if bool(inside.any()):
            by_head = _OtherHead(network, self._auxiliary_head(model))
            other_adv[inside] = self._attacked(by_head, other[inside], generator)
        return Examples(x, primary_adv[: len(x)], y, (Examples(other, other_adv, labels),))

    def forward(self, model: nn.Module, examples: Examples) -> Forwards:
        """One forward of all clean images and one of all adversarial ones, primary and auxiliary together.

        The auxiliary view's logits are those of the primary head, then those of the auxiliary head.
        """
        (other,) = examples.more
        clean, clean_other = self._both(model, examples.x, other.x)
        adv, adv_other = self._both(model, examples.x_adv, other.x_adv)
        return Forwards(examples.x_adv, adv, clean, ((Forwards(other.x_adv, adv_other, clean_other), other.y),))

    def loss(self, forwards: Forwards, y: Tensor) -> Tensor:
        return self.losses(forwards, y).mean() + self.other_loss(forwards, y)

    def losses(self, forwards: Forwards, y: Tensor) -> Tensor:
        return trades_loss(forwards, y, self.beta, self.label_smoothing)

    def other_loss(self, forwards: Forwards, y: Tensor) -> Tensor:
        ((other, labels),) = forwards.more
        weight = 0.0 if self._warming_up else self.alpha
        return weight * self._auxiliary_loss(other, labels, forwards.adv.logits.shape[1]).mean()

    def _auxiliary_loss(self, forwards: Forwards, y: Tensor, classes: int) -> Tensor:
        """(B,): TRADES on the auxiliary head where the gate let the image in, else towards an undecided primary one."""
        clean, adv = clean_of(forwards, "BiaMAT").logits, forwards.adv.logits
        clean_head, adv_head = clean[:, classes:], adv[:, classes:]
        known, smoothing = y.clamp_min(0), self.label_smoothing
        inside = F.cross_entropy(at_least_float32(clean_head), known, reduction="none", label_smoothing=smoothing)
        inside = inside + self.beta * kl_divergence(clean_head, adv_head)
        undecided = uniform_cross_entropy(clean[:, :classes])
        outside = undecided + self.beta * kl_divergence(clean[:, :classes], adv[:, :classes])
        return torch.where(y == _OUTSIDE, outside, inside)

    @property
    def _warming_up(self) -> bool:
        return self._epoch < self.warmup_epochs

    def _gate(self, network: nn.Module, x: Tensor, other: Tensor) -> Tensor:
        """(B,) bool: which auxiliary images the primary head takes for something it knows."""
        if self._warming_up:
            return torch.ones(len(other), dtype=torch.bool, device=other.device)
        with attacking(network), torch.no_grad():
            if self.threshold is None:
                self.threshold = self.gamma * mean_over_processes(_confidence(output_of(network, x)).mean())
            return _confidence(output_of(network, other)) >= self.threshold.to(other.device)

    def _both(self, model: nn.Module, x: Tensor, other: Tensor) -> tuple[Output, Output]:
        logits, embedding = output_of(model, torch.cat([x, other]))
        head = self._auxiliary_head(model)
        mine, its = (embedding[: len(x)], embedding[len(x) :])
        by_head = head(its.to(head.weight.dtype)).to(logits.dtype)
        return Output(logits[: len(x)], mine), Output(torch.cat([logits[len(x) :], by_head], 1), its)

    def _attacked(self, network: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        unused = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return self.attack.craft(network, x, unused, eps=self.eps, generator=generator)

    def _draw(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As many auxiliary images as there are primary ones, augmented, and their labels."""
        if self._images is None or self._images.images.device != x.device:
            self._images = self._data().to(x.device)
        data = self._images
        if data.images.shape[1:] != x.shape[1:]:
            raise UserError(f"auxiliary images have shape {data.shape}, primary ones {tuple(x.shape[1:])}")
        chosen = torch.randint(len(data), (len(x),), generator=generator, device=generator.device)
        images = data.images[chosen]
        if isinstance(self.auxiliary, Source):
            seed = int(torch.randint(2**62, (), generator=generator, device=generator.device).item())
            images = self.auxiliary.augment(images, torch.Generator().manual_seed(seed))
        return unit_pixels(images, x.dtype), data.labels[chosen]

    def _data(self) -> ImageData:
        if self._images is None:
            self._images = self.auxiliary.load("train") if isinstance(self.auxiliary, Source) else self.auxiliary
        return self._images

    def _auxiliary_head(self, model: nn.Module) -> nn.Linear:
        if self.head is None:
            image = unit_pixels(self._data().images[:1].to(device_of(model)), float_type(float_types(model)))
            width = _embedding_dim(unwrap_model(model), image)
            self.head = nn.Linear(width, self._data().num_classes, device=image.device)
        return self.head


class _OtherHead(nn.Module):
    """The backbone of a model under another head."""

    def __init__(self, model: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(output_of(self.model, x).embedding.to(self.head.weight.dtype))
        return logits


def _embedding_dim(model: nn.Module, image: Tensor) -> int:
    try:
        with attacking(model), torch.no_grad():
            width = output_of(model, image).embedding.shape[1]
    except (ValueError, RuntimeError) as error:
        raise UserError(f"the model does not take images of the auxiliary set: {error}") from error
    if not width:
        raise UserError(
            "the model returns logits only, and BiaMAT's auxiliary head needs embeddings; "
            "wrap it: protoat.with_embedding(model, layer=...)"
        )
    return width


def _confidence(output: Output) -> Tensor:
    return at_least_float32(output.logits).softmax(1).amax(1)
