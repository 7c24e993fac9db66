"""Embeddings of images, clean or attacked, in the order in which robustness is measured."""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from torch import Tensor, nn

from protoat.attacks import Attack
from protoat.attacks.mode import attacking
from protoat.data import ImageData
from protoat.data.given import as_image_data
from protoat.errors import UserError
from protoat.evaluation.preparation import check_batch_norm
from protoat.functional.forward import device_of, output_of, predicted
from protoat.functional.precision import float_types


class Embedded(NamedTuple):
    """What a model makes of images.

    Attributes:
        images: (M, C, H, W) as the model saw them, in [0, 1], on the CPU.
        embedding: (M, D) on the CPU.
        predicted: (M,) int64 classes of the head, on the CPU; -1 where logits are not finite.
    """

    images: Tensor
    embedding: Tensor
    predicted: Tensor


@torch.no_grad()
def embed_images(model: nn.Module, images: Tensor, *, batch_size: int = 256) -> Embedded:
    """Embeddings and predictions of (M, C, H, W) images in [0, 1], in eval mode; the model's modes stay as they are.

    Raises:
        ValueError: no images, or a model that returns logits only.

    >>> from protoat.types import Output
    >>> class Sums(nn.Module):
    ...     def forward(self, x):
    ...         return Output(x.flatten(1), x.sum((2, 3)))
    >>> embed_images(Sums(), torch.ones(3, 1, 2, 2)).embedding.shape
    torch.Size([3, 1])
    """
    if not len(images):
        raise UserError("there are no images to embed")
    device = device_of(model)
    with attacking(model):
        found = [output_of(model, part.to(device)) for part in images.split(batch_size)]
    if not found[0].embedding.shape[1]:
        raise UserError(
            "the model returns logits only, and a figure of embeddings needs them; wrap it in "
            "protoat.with_embedding, or return protoat.Output"
        )
    logits = torch.cat([output.logits for output in found])
    return Embedded(images, torch.cat([output.embedding for output in found]).float().cpu(), predicted(logits).cpu())


def embed(
    model: nn.Module, data: ImageData, indices: Tensor, *, attack: Attack | None = None, batch_size: int = 256
) -> Embedded:
    """Embeddings of some images of a data set, clean or attacked.

    Every image is attacked, also one that is wrong already. Each batch draws from a generator seeded with
    ``attack.seed`` and its place, so the same call gives the same images.

    Args:
        model: images in [0, 1] -> `Output`.
        data: the images.
        indices: (M,) int64, which of them, in this order.
        attack: None leaves them as they are.
        batch_size: images attacked at once; another one draws other random starts.

    Raises:
        ValueError: an attack with ``bn="train"``; see also `embed_images`.
    """
    check_batch_norm(attack, type(attack).__name__)
    device = device_of(model)
    data = as_image_data(data, dtypes=float_types(model))
    seen = []
    for place, rows in enumerate(indices.split(batch_size)):
        x, y = data.pixels(rows, device), data.labels[rows].to(device)
        if attack is not None:
            seed = random.Random(f"{attack.seed}, {place}").getrandbits(63)
            x = attack.craft(model, x, y, generator=torch.Generator(device).manual_seed(seed))
        seen.append(x.cpu())
    return embed_images(model, torch.cat(seen), batch_size=batch_size)
