"""MNIST and Fashion-MNIST, read and downloaded by torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from protoat.data.base import ImageData, Split, reading
from protoat.data.torchvision_set import TorchvisionSet


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
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
