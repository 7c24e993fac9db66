"""Train and eval modes of modules during training, respecting what the caller froze."""

from __future__ import annotations

import logging

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

logger = logging.getLogger(__name__)


class ModuleModes:
    """Modes of a model as it came, and as it trains.

    A module that came in eval mode stays in it, so that ``net.bn1.eval()`` freezes a layer's statistics, and so does
    one that the model's own ``train`` leaves in it. A model of which no module came in train mode was measured before
    and is put into train mode as a whole, with a warning where that makes a difference.

    Args:
        model: whose modes are kept; or a regularizer.
        name: what warnings call it.

    >>> net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    >>> _ = net[0].eval()
    >>> modes = ModuleModes(net)
    >>> modes.train(); net.training, net[0].training, net[1].training
    (True, False, True)
    """

    def __init__(self, model: nn.Module, name: str = "model") -> None:
        self.model = model
        self._came = [(module, module.training) for module in model.modules()]
        measured = not any(mode for _, mode in self._came)
        model.train()
        self._learning = [module.training and (mode or measured) for module, mode in self._came]
        self.restore()
        if measured and any(isinstance(module, _BatchNorm | _DropoutNd) for module, _ in self._came):
            logger.warning(
                "the %s came in eval mode and trains in train mode; to freeze batch norm or dropout, put these "
                "layers alone into eval mode",
                name,
            )

    @property
    def learning(self) -> set[nn.Module]:
        """The modules that are in train mode while the model trains."""
        return {module for (module, _), mode in zip(self._came, self._learning, strict=True) if mode}

    def train(self, copy: nn.Module | None = None) -> None:
        """Puts the model, or a copy of it, into the modes in which it trains."""
        modules = (module for module, _ in self._came) if copy is None else copy.modules()
        for module, mode in zip(modules, self._learning, strict=True):
            module.training = mode

    def restore(self) -> None:
        """Gives each module of the model the mode in which it came."""
        for module, mode in self._came:
            module.training = mode
