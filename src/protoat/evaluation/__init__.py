"""Honest measurement: accuracy under attack with its interval, for each class and each mode."""

from protoat.evaluation.attack_names import attack_of_name
from protoat.evaluation.order import fair_order
from protoat.evaluation.report import AttackReport, Report
from protoat.evaluation.robustness import evaluate
from protoat.evaluation.statistics import Count

__all__ = ["AttackReport", "Count", "Report", "attack_of_name", "evaluate", "fair_order"]
