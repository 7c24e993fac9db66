"""Data sets whose classes have known modes, and batches of them."""

from protoat.data.augment import Augment
from protoat.data.base import DataNotFoundError, ImageData, Source, Split
from protoat.data.batch_format import Origin
from protoat.data.cache import cache_folder
from protoat.data.digits import Digits
from protoat.data.folder import ImageFolder
from protoat.data.hugging_face import HFDataset
from protoat.data.inventory import Inventory
from protoat.data.loader import ImageLoader
from protoat.data.modes import Groups, long_tailed, regroup, split_validation
from protoat.data.preprocess import Preprocess
from protoat.data.tiny_imagenet import TinyImageNet
from protoat.data.torchvision_sets import CIFAR10, CIFAR100, CIFAR100_SUPERCLASSES, MNIST, FashionMNIST
from protoat.data.views import RandomView

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "CIFAR100_SUPERCLASSES",
    "MNIST",
    "Augment",
    "DataNotFoundError",
    "Digits",
    "FashionMNIST",
    "Groups",
    "HFDataset",
    "ImageData",
    "ImageFolder",
    "ImageLoader",
    "Inventory",
    "Origin",
    "Preprocess",
    "RandomView",
    "Source",
    "Split",
    "TinyImageNet",
    "cache_folder",
    "long_tailed",
    "regroup",
    "split_validation",
]
