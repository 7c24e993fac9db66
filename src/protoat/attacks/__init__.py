"""Attacks: small typed objects; `Attack` enforces the budget and judges success."""

from protoat.attacks.base import Attack, AttackLoss, AttackResult, BatchNormMode
from protoat.attacks.gradient import FGSM, PGD
from protoat.attacks.kl import TPGD

__all__ = ["FGSM", "PGD", "TPGD", "Attack", "AttackLoss", "AttackResult", "BatchNormMode"]
