"""visionkit: five questions asked of an image, answered on one shared convolutional backbone."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# albumentations asks the package index for its newest version at import unless told not to.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

if TYPE_CHECKING:
    from visionkit.model import VisionModel
    from visionkit.predictor import Predictor, load

__version__ = "0.1.0"
__all__ = ["Predictor", "VisionModel", "__version__", "load"]

_HOMES = {"load": "visionkit.predictor", "Predictor": "visionkit.predictor", "VisionModel": "visionkit.model"}


def __getattr__(name: str) -> Any:
    """Import the heavy names when they are first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'visionkit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
