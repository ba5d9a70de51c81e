"""What a model is made of and what it has learned: sizes, costs, receptive fields, and the evidence for its answers."""

from __future__ import annotations

from visionkit.inspection.evidence import Evidence, class_evidence
from visionkit.inspection.table import Row, rows, text_table, total
from visionkit.inspection.trace import Call, trace_model

__all__ = ["Call", "Evidence", "Row", "class_evidence", "rows", "text_table", "total", "trace_model"]
