"""Image classifiers that return `Output(logits, embedding)` and normalise their input themselves."""

from protoat.models.classifier import ImageClassifier
from protoat.models.embedding import WithEmbedding, with_embedding
from protoat.models.lenet import LeNet
from protoat.models.normalize import Normalize
from protoat.models.resnet import ResNet18, ResNet50

__all__ = ["ImageClassifier", "LeNet", "Normalize", "ResNet18", "ResNet50", "WithEmbedding", "with_embedding"]
