"""Attacks: small typed objects; `Attack` enforces the budget and judges success."""

from protoat.attacks.base import Attack, AttackLoss, AttackResult, BatchNormMode
from protoat.attacks.gradient import FGSM, PGD

__all__ = ["FGSM", "PGD", "Attack", "AttackLoss", "AttackResult", "BatchNormMode"]
