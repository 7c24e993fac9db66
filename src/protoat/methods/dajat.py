"""DAJAT: strong augmentations beside the plain ones, with batch norm of their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from protoat.arguments import check_number
from protoat.attacks import BatchNormMode
from protoat.attacks.kl import TPGD
from protoat.errors import UserError
from protoat.functional.consistency import jensen_shannon
from protoat.functional.preserve import preserve_random_state
from protoat.methods.base import Examples, OneStep, clean_and_adversarial
from protoat.methods.trades import trades_loss
from protoat.models.dual_bn import SecondBatchNorm
from protoat.pixels import Pixels
from protoat.threats import ThreatModel
from protoat.types import Forwards

_VIEWS = 2
_GREY = 128


class DAJAT(OneStep):
    """TRADES on each batch and on two strongly augmented views of it, which are to be predicted alike.

    The loss is the mean of the three TRADES losses + `js_weight` x Jensen-Shannon divergence of the three clean
    predictions. The augmented views go through batch-norm layers of their own, which the method holds and which take
    part in training; the model keeps the layers of the plain images and is deployed as it is.

    One step costs ``3 * (2 * steps + 1)`` passes for the attacks, and six forwards and six backwards for the weights.
    The authors use it inside `AWP` with gamma 0.005 from the tenth epoch on (which looks at the plain view only), with
    an averaging decay of 0.9996, and on raw pixels (no normalisation in the model).

    Args:
        threat: norm and radius at the end of the ramp.
        beta: weight of the divergence in each TRADES loss (11 for ResNet-18 on CIFAR-10, 9 on CIFAR-100).
        js_weight: weight of the Jensen-Shannon term (2; 3 for a wide ResNet on CIFAR-10).
        steps: gradient steps of the attack (2; up to 5 with ``step_size = eps / 2`` in the authors' costlier setting).
            Two steps of full length serve 8/255; at 0.3 on MNIST the network learns to resist only them, and takes the
            costlier.
        step_size: length of a step in pixels at full radius; default eps.
        bn: batch norm while attacking: ``eval`` uses the running statistics, ``train`` the batch's, moving the running
            ones, and ``train_frozen`` the batch's, moving nothing.
        ramp_epochs: epochs over which radius and step grow from 0; None is the whole run, where its length is known (in
            `protoat.fit` and `Objective.epochs`), and full strength elsewhere.

    Raises:
        ValueError: a negative `beta` or `js_weight`.

    Source: Addepalli, Jain & Babu, NeurIPS 2022. Deviations: AutoAugment comes after the crop and flip of the data
    loader, which the three views share; the radius grows with each batch, not each epoch; `steps` is constant.

    >>> from protoat.threats import Linf
    >>> DAJAT(Linf("8/255")).attack.steps
    2
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        beta: float = 11.0,
        js_weight: float = 2.0,
        steps: int = 2,
        step_size: Pixels | None = None,
        bn: BatchNormMode = "eval",
        ramp_epochs: float | None = None,
    ) -> None:
        super().__init__(threat, ramp_epochs=ramp_epochs)
        check_number("[0, inf)", "11 and 2 are usual", beta=beta, js_weight=js_weight)
        self.attack = TPGD(threat, steps=steps, step_size=threat.eps if step_size is None else step_size, bn=bn)
        self.beta = beta
        self.js_weight = js_weight
        self.second: SecondBatchNorm | None = None

    def prepare(self, model: nn.Module) -> None:
        self._second_set(model)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor) -> Examples:
        generator = self.generator(x)
        plain = self._attacked(model, x, y, generator)
        with self._second_set(model).in_place_of(model):
            views = (auto_augment(x, generator) for _ in range(_VIEWS))
            return plain._replace(more=tuple(self._attacked(model, view, y, generator) for view in views))

    def forward(self, model: nn.Module, examples: Examples) -> Forwards:
        plain = clean_and_adversarial(model, examples)
        with self._second_set(model).in_place_of(model):
            more = tuple((clean_and_adversarial(model, view), view.y) for view in examples.more)
        return plain._replace(more=more)

    def ascent_forward(self, model: nn.Module, examples: Examples) -> Forwards:
        return clean_and_adversarial(model, examples)

    def loss(self, views: Forwards, y: Tensor) -> Tensor:
        every = [(views, y), *views.more]
        trades = torch.stack(
            [trades_loss(view, labels, self.beta, self.label_smoothing).mean() for view, labels in every]
        ).mean()
        return trades + self.js_weight * self._disagreement(views).mean()

    def losses(self, views: Forwards, y: Tensor) -> Tensor:
        every = [(views, y), *views.more]
        trades = torch.stack([trades_loss(view, labels, self.beta, self.label_smoothing) for view, labels in every])
        return trades.mean(0) + self.js_weight * self._disagreement(views)

    @staticmethod
    def _disagreement(views: Forwards) -> Tensor:
        """Divergence of the clean predictions of all views of each image, (B,)."""
        every = (views, *(view for view, _ in views.more))
        return jensen_shannon(*(view.clean.logits for view in every if view.clean is not None))

    def _attacked(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Examples:
        return Examples(x, self.attack.craft(model, x, y, eps=self.eps, generator=generator), y)

    def _second_set(self, model: nn.Module) -> SecondBatchNorm:
        if self.second is None:
            self.second = SecondBatchNorm(model)
        return self.second


def auto_augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image under its own draw of AutoAugment's CIFAR-10 policy, on the device of `x`.

    Args:
        x: (B, C, H, W) in [0, 1], one channel or three; colour operations leave one channel as it is.
        generator: the only source of randomness.

    Raises:
        ValueError: another number of channels.

    Source: Cubuk et al., CVPR 2019; torchvision's transform, with grey where a turned image leaves a corner empty.

    >>> auto_augment(torch.rand(2, 1, 8, 8), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 1, 8, 8])
    """
    from torchvision.transforms import v2

    if x.dim() != 4 or x.shape[1] not in (1, 3):
        raise UserError(f"AutoAugment needs images (B, 1 or 3, H, W), got {tuple(x.shape)}")
    transform = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=_GREY)
    pixels = (x * 255).round().to(torch.uint8)
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device).item())
    with preserve_random_state(torch.device("cpu"), seed):  # torchvision draws from the CPU's global state
        return torch.stack([transform(image) for image in pixels]).to(x.dtype) / 255
