"""Exported models: one file with normalisation, network and decoding, for onnxruntime or torch.export."""

from __future__ import annotations

from visionkit.export.files import export_model, load_exported

__all__ = ["export_model", "load_exported"]
