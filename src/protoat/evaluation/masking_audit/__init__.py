"""The audit: does a model withstand attacks, or does it only mask its gradients?"""

from protoat.evaluation.masking_audit.context import Surrogate
from protoat.evaluation.masking_audit.report import CHECKS, NOT_ASKED, AuditReport, audit

__all__ = ["CHECKS", "NOT_ASKED", "AuditReport", "Surrogate", "audit"]
