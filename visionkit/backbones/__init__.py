"""Backbones: from normalised images to feature maps."""

from __future__ import annotations

from visionkit.backbones.csp import CSP
from visionkit.backbones.plain import Plain
from visionkit.backbones.timm import Timm
from visionkit.backbones.torchvision import Torchvision

__all__ = ["CSP", "Plain", "Timm", "Torchvision"]
