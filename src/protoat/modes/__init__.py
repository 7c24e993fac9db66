"""Modes in training: which mode each training image has, known or discovered."""

from protoat.modes.base import Modes
from protoat.modes.known import KnownModes

__all__ = ["KnownModes", "Modes"]
