"""Weights of images in the loss, by which the worst group counts more than its share."""

from protoat.weighting.base import Weighting
from protoat.weighting.cfol import CFOL
from protoat.weighting.group_dro import GroupDRO

__all__ = ["CFOL", "GroupDRO", "Weighting"]
