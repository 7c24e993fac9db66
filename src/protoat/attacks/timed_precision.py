"""Times an attack step in float32 and in bfloat16, and picks the faster."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from protoat.attacks.gradient import PGD
from protoat.attacks.precision import AttackPrecision, faster_precision
from protoat.functional.distributed import max_over_processes
from protoat.threats import ThreatModel

logger = logging.getLogger(__name__)


def timed_precision(network: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> tuple[AttackPrecision, float]:
    """The precision in which one step of PGD is faster on every process, and the ratio of bfloat16 to float32; logged.

    Args:
        network: images -> `Output` or logits.
        x, y: a batch of images, (B, ...), and labels, (B,), where the network is.
        threat: of the attack that is timed.
    """
    attack = PGD(threat, steps=1, random_start=False)
    chosen, ratio = faster_precision(lambda: attack.craft(network, x, y), x.device)
    slower = max_over_processes(torch.tensor(float(chosen == "fp32"), device=x.device))
    precision: AttackPrecision = "fp32" if float(slower) else "bf16"
    logger.info("attacks run in %s: a pass in bfloat16 takes %.2f of one in float32 here", precision, ratio)
    return precision, ratio
