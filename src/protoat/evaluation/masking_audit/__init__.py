"""The audit: does a model withstand attacks, or does it only mask its gradients?"""

from protoat.evaluation.masking_audit.report import (
    CHECKS,
    NOT_ASKED,
    AuditReport,
    Surrogate,
    Tally,
    audit,
    tally,
)

__all__ = ["CHECKS", "NOT_ASKED", "AuditReport", "Surrogate", "Tally", "audit", "tally"]
