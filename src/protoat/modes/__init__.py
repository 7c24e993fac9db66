"""Modes in training: which mode each training image has, known or discovered."""

from protoat.modes.base import Modes
from protoat.modes.discovered import DiscoveredModes
from protoat.modes.known import KnownModes

__all__ = ["DiscoveredModes", "KnownModes", "Modes"]
