"""Training methods: how adversarial examples enter training."""

from protoat.methods.atta import ATTA
from protoat.methods.awp import AWP
from protoat.methods.base import AdversarialTraining, Examples, Method, OneStep
from protoat.methods.biamat import BiaMAT
from protoat.methods.cfa import CFA
from protoat.methods.dajat import DAJAT
from protoat.methods.distillation import Distillation
from protoat.methods.fast import FastAT
from protoat.methods.fgsm_pgi import FGSMPGI
from protoat.methods.free import FreeAT
from protoat.methods.mart import MART
from protoat.methods.n_fgsm import NFGSM
from protoat.methods.nuat import NuAT
from protoat.methods.pgd import FGSMAT, PGDAT
from protoat.methods.standard import Standard
from protoat.methods.trades import TRADES

__all__ = [
    "ATTA",
    "AWP",
    "CFA",
    "DAJAT",
    "FGSMAT",
    "FGSMPGI",
    "MART",
    "NFGSM",
    "PGDAT",
    "TRADES",
    "AdversarialTraining",
    "BiaMAT",
    "Distillation",
    "Examples",
    "FastAT",
    "FreeAT",
    "Method",
    "NuAT",
    "OneStep",
    "Standard",
]
