"""Image classifiers that return `Output(logits, embedding)` and normalise their input themselves."""

from protoat.models.classifier import ImageClassifier
from protoat.models.dual_bn import (
    DualBatchNorm,
    SecondBatchNorm,
    batch_norm_branch,
    dual_batch_norm,
    keep_branch,
)
from protoat.models.embedding import WithEmbedding, with_embedding
from protoat.models.freeze import FrozenBatchNorm, freeze_all_but
from protoat.models.head import classifier_head, multi_prototype_head, with_head
from protoat.models.lenet import LeNet
from protoat.models.library import TimmModel, TorchvisionModel
from protoat.models.mean_logits import MeanLogits
from protoat.models.multi_prototype import MultiPrototypeHead
from protoat.models.normalize import Normalize
from protoat.models.resnet import ResNet18, ResNet50

__all__ = [
    "DualBatchNorm",
    "FrozenBatchNorm",
    "ImageClassifier",
    "LeNet",
    "MeanLogits",
    "MultiPrototypeHead",
    "Normalize",
    "ResNet18",
    "ResNet50",
    "SecondBatchNorm",
    "TimmModel",
    "TorchvisionModel",
    "WithEmbedding",
    "batch_norm_branch",
    "classifier_head",
    "dual_batch_norm",
    "freeze_all_but",
    "keep_branch",
    "multi_prototype_head",
    "with_embedding",
    "with_head",
]
