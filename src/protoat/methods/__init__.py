"""Training methods: how adversarial examples enter training."""

from protoat.methods.base import AdversarialTraining, Method
from protoat.methods.fast import FastAT
from protoat.methods.free import FreeAT
from protoat.methods.pgd import FGSMAT, PGDAT
from protoat.methods.standard import Standard

__all__ = ["FGSMAT", "PGDAT", "AdversarialTraining", "FastAT", "FreeAT", "Method", "Standard"]
