"""A softmax classifier, one linear layer, in plain Python: the slow reference for training methods, without autograd.

Images and weights are lists of floats: ``x[i][d]`` for pixel d of image i, ``w[c][d]`` for class c.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

Matrix = list[list[float]]


def network(w: Matrix) -> nn.Module:
    """The same classifier as a module in float64, for images of shape (B, 1, 2, 2) with 4 pixels."""
    layer = nn.Linear(len(w[0]), len(w), bias=False, dtype=torch.float64)
    layer.weight.data = torch.tensor(w, dtype=torch.float64)
    return nn.Sequential(nn.Flatten(), layer)


def as_images(x: Matrix) -> Tensor:
    return torch.tensor(x, dtype=torch.float64).view(len(x), 1, 2, 2)


def as_rows(x: Tensor) -> Matrix:
    rows: Matrix = x.reshape(len(x), -1).tolist()
    return rows


def error(w: Matrix, image: list[float], label: int) -> list[float]:
    """Probabilities minus the one-hot label: gradient of cross-entropy with respect to the logits."""
    logits = [sum(weight * pixel for weight, pixel in zip(row, image, strict=True)) for row in w]
    top = max(logits)
    exponentials = [math.exp(logit - top) for logit in logits]
    return [value / sum(exponentials) - (c == label) for c, value in enumerate(exponentials)]


def pixel_gradient(w: Matrix, image: list[float], label: int) -> list[float]:
    """Gradient of one image's cross-entropy with respect to its pixels."""
    e = error(w, image, label)
    return [sum(e[c] * w[c][d] for c in range(len(w))) for d in range(len(image))]


def weight_gradient(w: Matrix, images: Matrix, labels: list[int]) -> Matrix:
    """Gradient of the mean cross-entropy with respect to the weights."""
    gradient = [[0.0] * len(w[0]) for _ in w]
    for image, label in zip(images, labels, strict=True):
        e = error(w, image, label)
        for c in range(len(w)):
            for d in range(len(image)):
                gradient[c][d] += e[c] * image[d] / len(images)
    return gradient


def sgd(w: Matrix, gradient: Matrix, lr: float) -> Matrix:
    return [[a - lr * g for a, g in zip(row, other, strict=True)] for row, other in zip(w, gradient, strict=True)]


def clip(value: float, low: float, high: float) -> float:
    return max(low, min(high, value))


def sign(value: float) -> float:
    return (value > 0) - (value < 0)


def into_ball(image: list[float], centre: list[float], eps: float) -> list[float]:
    """Ball, then box."""
    return [clip(clip(a, c - eps, c + eps), 0.0, 1.0) for a, c in zip(image, centre, strict=True)]


def pgd(w: Matrix, start: Matrix, x: Matrix, labels: list[int], *, eps: float, step: float, steps: int) -> Matrix:
    """Algorithm of Madry et al. from a given start, image by image."""
    result = []
    for image, centre, label in zip(start, x, labels, strict=True):
        present = image
        for _ in range(steps):
            gradient = pixel_gradient(w, present, label)
            present = into_ball([p + step * sign(g) for p, g in zip(present, gradient, strict=True)], centre, eps)
        result.append(present)
    return result
