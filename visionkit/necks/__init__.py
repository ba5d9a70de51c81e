"""Necks: from a backbone's feature maps to those that heads read."""

from __future__ import annotations

from visionkit.necks.fpn import FPN
from visionkit.necks.pafpn import PAFPN

__all__ = ["FPN", "PAFPN"]
