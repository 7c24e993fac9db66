"""How every test and every doctest starts."""

from __future__ import annotations

import logging
import sys

import pytest
from hypothesis import settings


def pytest_configure() -> None:
    """No property fails because the machine is busy."""
    settings.register_profile("any machine", deadline=None)
    settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """Every test and doctest starts alike: random state, levels of logging, spelling, one thread."""
    import torch  # not above: the process that only hands out tests need not wait for it

    if torch.accelerator.is_available():
        torch.manual_seed(0)
    else:  # the same, but does not note down where it was called for each kind of device that is absent
        torch.default_generator.manual_seed(0)
    torch.set_num_threads(1)
    if spelling := sys.modules.get("protoat.spelling"):
        spelling.spell_by(None)  # as commands whose parts a test has called
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("protoat") and isinstance(logger, logging.Logger):
            logger.setLevel(logging.NOTSET)  # as commands that ran in this process set them
