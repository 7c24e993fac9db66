"""Attacks: small typed objects; `Attack` enforces the budget and judges success."""

from protoat.attacks.adaptive import (
    ApproachWrong,
    LeaveOwn,
    PrototypeClassifier,
    WithSoftTriple,
    adaptive_attacks,
)
from protoat.attacks.adaptive_head import LeaveMode, adaptive_head_attacks
from protoat.attacks.apgd import APGD, APGDT
from protoat.attacks.autoattack import AutoAttack
from protoat.attacks.base import Attack
from protoat.attacks.carlini_wagner import CarliniWagnerL2
from protoat.attacks.carlini_wagner_l0 import CarliniWagnerL0
from protoat.attacks.carlini_wagner_linf import CarliniWagnerLinf
from protoat.attacks.deepfool import DeepFool
from protoat.attacks.displacement import EmbeddingDisplacement
from protoat.attacks.examination import Finding, MeasurementWarning
from protoat.attacks.fab import FAB, FABT
from protoat.attacks.fast_ensemble import FastEnsemble
from protoat.attacks.gradient import FGSM, PGD
from protoat.attacks.iterated import BIM, CWPGD, MIM
from protoat.attacks.jsma import JSMA
from protoat.attacks.kl import TPGD
from protoat.attacks.malt import MALT
from protoat.attacks.minimal import Closest, MinimalNormAttack
from protoat.attacks.mode import BatchNormMode
from protoat.attacks.noise import CornerNoise, UniformNoise
from protoat.attacks.pma import PMA
from protoat.attacks.problem import AttackLoss, AttackResult, Problem
from protoat.attacks.single_step import FFGSM, RFGSM
from protoat.attacks.spsa import SPSA
from protoat.attacks.square import Square
from protoat.attacks.targets import Targeted, TargetRule, draw_targets
from protoat.attacks.transfer import Transfer

__all__ = [
    "APGD",
    "APGDT",
    "BIM",
    "CWPGD",
    "FAB",
    "FABT",
    "FFGSM",
    "FGSM",
    "JSMA",
    "MALT",
    "MIM",
    "PGD",
    "PMA",
    "RFGSM",
    "SPSA",
    "TPGD",
    "ApproachWrong",
    "Attack",
    "AttackLoss",
    "AttackResult",
    "AutoAttack",
    "BatchNormMode",
    "CarliniWagnerL0",
    "CarliniWagnerL2",
    "CarliniWagnerLinf",
    "Closest",
    "CornerNoise",
    "DeepFool",
    "EmbeddingDisplacement",
    "FastEnsemble",
    "Finding",
    "LeaveMode",
    "LeaveOwn",
    "MeasurementWarning",
    "MinimalNormAttack",
    "Problem",
    "PrototypeClassifier",
    "Square",
    "TargetRule",
    "Targeted",
    "Transfer",
    "UniformNoise",
    "WithSoftTriple",
    "adaptive_attacks",
    "adaptive_head_attacks",
    "draw_targets",
]
