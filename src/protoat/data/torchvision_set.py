"""The base class of data sets that torchvision reads and downloads."""

from __future__ import annotations

from typing import Any, ClassVar

from protoat.data.base import Source
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
