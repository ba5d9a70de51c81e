"""Readers: one per way in which labelled images are stored, all of them `interfaces.Reader`s."""

from __future__ import annotations

from visionkit.data.readers.coco import Coco
from visionkit.data.readers.folder import Folder
from visionkit.data.readers.shapes import Shapes
from visionkit.data.readers.voc import Voc

__all__ = ["Coco", "Folder", "Shapes", "Voc"]
