"""Data sets that torchvision reads and downloads: MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch

from protoat.data.augment import Augment
from protoat.data.base import ImageData, Source, Split, reading
from protoat.data.inventory import Inventory, inventory_of_both


class TorchvisionSet(Source):
    """A source whose files are those of a class of ``torchvision.datasets``.

    Attributes:
        in_torchvision: name of that class.
    """

    in_torchvision: ClassVar[str]

    @property
    def dataset(self) -> Any:
        """The class itself."""
        from torchvision import datasets  # takes seconds

        return getattr(datasets, self.in_torchvision)

    def inventory(self) -> Inventory | None:
        return inventory_of_both(self)

    def fetch_files(self) -> None:
        self.dataset(self.root, download=True)


class MNIST(TorchvisionSet):
    """60,000 + 10,000 handwritten digits of 28x28 grey pixels, in ``root/MNIST/raw``; not augmented.

    Args:
        root: folder that holds data sets; default ``PROTOAT_DATA``, else ``~/.cache/protoat/data``.
        download: fetch missing files when loading (default False).

    Source: LeCun et al., 1998. The files are arrays of bytes already, so nothing of them goes to the cache.

    >>> MNIST(root="/data").location().as_posix()
    '/data/MNIST/raw'
    """

    in_torchvision = "MNIST"
    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")

    def location(self) -> Path:
        return self.root / self.in_torchvision / "raw"

    def available(self) -> bool:
        return all((self.location() / Path(archive).stem).is_file() for archive, _ in self.dataset.resources)

    def read(self, split: Split) -> ImageData:
        # Not through the data set class: it would rather load pickled tensors of an old version, if some lie around.
        from torchvision.datasets.mnist import read_image_file, read_label_file

        part = "train" if split == "train" else "t10k"
        with reading(self.location()):
            images = read_image_file(self.location() / f"{part}-images-idx3-ubyte")
            labels = read_label_file(self.location() / f"{part}-labels-idx1-ubyte")
        return ImageData(images.unsqueeze(1), labels, self.class_names)


class FashionMNIST(MNIST):
    """60,000 + 10,000 garments of 28x28 grey pixels, in ``root/FashionMNIST/raw``; not augmented.

    Args:
        root: folder that holds data sets; default ``PROTOAT_DATA``, else ``~/.cache/protoat/data``.
        download: fetch missing files when loading (default False).

    Source: Xiao et al., 2017.

    >>> FashionMNIST.class_names[:3]
    ('T-shirt/top', 'Trouser', 'Pullover')
    """

    in_torchvision = "FashionMNIST"
    class_names = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )


class CIFAR10(TorchvisionSet):
    """50,000 + 10,000 colour photographs of 32x32 pixels, in ``root/cifar-10-batches-py``.

    The files are pickles; torchvision compares each with its published MD5 before it reads any.

    Args:
        root: folder that holds data sets; default ``PROTOAT_DATA``, else ``~/.cache/protoat/data``.
        download: fetch missing files when loading (default False).

    Source: Krizhevsky, 2009. The files are arrays of bytes already, so nothing of them goes to the cache.

    >>> CIFAR10(root="/data").location().as_posix()
    '/data/cifar-10-batches-py'
    """

    augment = Augment(padding=4, flip=True)
    in_torchvision = "CIFAR10"

    def location(self) -> Path:
        return self.root / self.dataset.base_folder

    def available(self) -> bool:
        names = [name for name, _ in self.dataset.train_list + self.dataset.test_list]
        return all((self.location() / name).is_file() for name in [*names, self.dataset.meta["filename"]])

    def read(self, split: Split) -> ImageData:
        with reading(self.location()):
            stored = self.dataset(self.root, train=split == "train")
        images = torch.from_numpy(stored.data).permute(0, 3, 1, 2).contiguous()
        return ImageData(images, torch.tensor(stored.targets), tuple(stored.classes))


class CIFAR100(CIFAR10):
    """50,000 + 10,000 colour photographs of 32x32 pixels in 100 classes, in ``root/cifar-100-python``.

    ``regroup(data, "superclasses")`` joins them into the twenty official superclasses. Files and arguments are as for
    `CIFAR10`.

    Args:
        root: folder that holds data sets; default ``PROTOAT_DATA``, else ``~/.cache/protoat/data``.
        download: fetch missing files when loading (default False).

    Source: Krizhevsky, 2009.

    >>> CIFAR100(root="/data").location().as_posix()
    '/data/cifar-100-python'
    """

    in_torchvision = "CIFAR100"


#: Classes of each superclass, in the file's own spelling and order: the place of a superclass is its coarse label.
CIFAR100_SUPERCLASSES: dict[str, tuple[str, ...]] = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
