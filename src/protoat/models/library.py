"""Networks of timm and torchvision by name, from scratch, as classifiers with an embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from protoat.errors import UserError, in_a_line
from protoat.functional.preserve import preserve_modes
from protoat.models.classifier import ImageClassifier
from protoat.models.head import classifier_head
from protoat.names import nearest
from protoat.optional import optional
from protoat.spelling import setting


class TimmModel(ImageClassifier):
    """A network of timm with random weights, a linear head of ours, and the normalisation of its configuration.

    The embedding is what timm's own head is given: its pooled features. Weights to start from are loaded by a recipe's
    ``initialise.weights``, or by ``load_state_dict``.

    Args:
        num_classes: C.
        in_channels: channels of an image.
        image_size: its height and width; transformers are built for it.
        name: as timm lists it, such as ``resnet18`` or ``vit_tiny_patch16_224``.
        mean, std: normalisation for each channel; None takes that of the configuration where images have as many
            channels as it, and else leaves pixels as they are.

    Raises:
        ValueError: timm is not installed, knows no such network, or cannot build it for such images.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        *,
        name: str,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        timm: Any = optional("timm", "timm")
        check_name("timm", name, timm.list_models(), [*timm.list_models(), *timm.list_pretrained()])

        def create(**sized: int) -> nn.Module:
            return _built(
                f"timm:{name}",
                lambda: timm.create_model(name, pretrained=False, num_classes=0, in_chans=in_channels, **sized),
            )

        try:
            features = create(img_size=image_size)
        except UserError:  # convolutional networks take no size
            features = create()
        config: dict[str, Any] = features.pretrained_cfg  # type: ignore[assignment]
        mean, std = _normalisation(config.get("mean"), config.get("std"), in_channels, mean, std)
        dim = _embedding_dim(f"timm:{name}", features, in_channels, image_size)
        super().__init__(num_classes, in_channels, image_size, embedding_dim=dim, mean=mean, std=std)
        self.name = name
        self.features = features


class TorchvisionModel(ImageClassifier):
    """A classifier of torchvision with random weights, a linear head of ours, and the normalisation of its weights.

    The embedding is what its own last linear layer is given. Weights to start from are loaded by a recipe's
    ``initialise.weights``, or by ``load_state_dict``.

    Args:
        num_classes: C.
        in_channels: channels of an image; torchvision's networks take 3.
        image_size: its height and width.
        name: as ``torchvision.models.list_models()`` has it, such as ``resnet18``.
        mean, std: normalisation for each channel; None takes that of its newest weights.

    Raises:
        ValueError: torchvision knows no such classifier, or cannot build it for such images.

    >>> TorchvisionModel(2, 3, 32, name="squeezenet")
    Traceback (most recent call last):
    protoat.errors.UserError: torchvision:squeezenet is unknown; did you mean 'squeezenet1_1'?
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        *,
        name: str,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        from torchvision import models  # takes seconds

        known = models.list_models(module=models)
        check_name("torchvision", name, known, known)
        if in_channels != 3:
            raise UserError(
                f"torchvision:{name} takes images of 3 channels, and these have {in_channels}; write timm:NAME, whose "
                "networks take any number, or LeNet or ResNet18"
            )
        sized = {"image_size": image_size} if name.startswith("vit_") else {}
        features = _built(f"torchvision:{name}", lambda: models.get_model(name, weights=None, **sized))
        head = classifier_head(features)
        place = next(path for path, part in features.named_modules() if part is head)
        features.set_submodule(place, nn.Identity())
        prepared = models.get_model_weights(name).DEFAULT.transforms()
        mean, std = _normalisation(prepared.mean, prepared.std, in_channels, mean, std)
        dim = _embedding_dim(f"torchvision:{name}", features, in_channels, image_size)
        super().__init__(num_classes, in_channels, image_size, embedding_dim=dim, mean=mean, std=std)
        self.name = name
        self.features = features


def check_name(library: str, name: str, known: Sequence[str], allowed: Sequence[str]) -> None:
    """Refuses what a library does not list: a name may else be an address that it would download from.

    Raises:
        ValueError: with the nearest name.
    """
    if name not in allowed:
        hint = nearest(name, known, instead=f"it has {len(known)} networks, such as {', '.join(known[:3])}")
        raise UserError(f"{library}:{name} is unknown; {hint}")


def _normalisation(
    own_mean: Sequence[float] | None,
    own_std: Sequence[float] | None,
    channels: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    if mean is not None or std is not None or own_mean is None or own_std is None or len(own_mean) != channels:
        return mean, std
    return list(own_mean), list(own_std)


def _built(spec: str, build: Callable[[], nn.Module]) -> nn.Module:
    try:
        return build()
    except NotImplementedError:  # on torch's device without memory
        raise
    except Exception as error:
        raise UserError(f"{spec} cannot be built: {type(error).__name__}: {in_a_line(error)}") from error


def _embedding_dim(spec: str, features: nn.Module, channels: int, image_size: int) -> int:
    """Entries of an embedding, from a forward of one image.

    Raises:
        ValueError: the network does not take such images, or gives no vector.
    """
    device = next(features.parameters()).device
    try:
        with preserve_modes(features), torch.no_grad():
            found = features.eval()(torch.zeros(1, channels, image_size, image_size, device=device))
    except NotImplementedError:
        raise
    except Exception as error:
        raise UserError(
            f"{spec} cannot take images of {channels}x{image_size}x{image_size}: {in_a_line(error)[:200]}; "
            f"write {setting(image_size=224)}, or take another network"
        ) from error
    if found.dim() != 2:
        raise UserError(f"{spec} gives no embedding but values of shape {tuple(found.shape)}; take another network")
    return int(found.shape[1])
