"""Trained models for others: exported files, and cards that say what they are."""

from protoat.sharing.export import Agreement, export
from protoat.sharing.exported import Exported

__all__ = ["Agreement", "Exported", "export"]
