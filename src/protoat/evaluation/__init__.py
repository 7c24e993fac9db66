"""Honest measurement: accuracy under attack with its interval, for each class and each mode."""

from protoat.attacks.examination import Finding
from protoat.evaluation.attack_names import attack_of_name
from protoat.evaluation.compare import Comparison, Comparisons, compare
from protoat.evaluation.masking_audit import AuditReport, Surrogate, audit
from protoat.evaluation.order import fair_order
from protoat.evaluation.predictions import Prediction, Predictions, predict
from protoat.evaluation.report import AttackReport, Report
from protoat.evaluation.robustness import evaluate
from protoat.evaluation.statistics import Count, Paired
from protoat.evaluation.threat_lint import lint

__all__ = [
    "AttackReport",
    "AuditReport",
    "Comparison",
    "Comparisons",
    "Count",
    "Finding",
    "Paired",
    "Prediction",
    "Predictions",
    "Report",
    "Surrogate",
    "attack_of_name",
    "audit",
    "compare",
    "evaluate",
    "fair_order",
    "lint",
    "predict",
]
