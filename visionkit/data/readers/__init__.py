"""Readers: one per way in which labelled images are stored, and some around others; all are `interfaces.Reader`s."""

from __future__ import annotations

from visionkit.data.readers.auto import Auto
from visionkit.data.readers.coco import Coco
from visionkit.data.readers.csv import Csv
from visionkit.data.readers.folder import Folder
from visionkit.data.readers.joined import Joined
from visionkit.data.readers.masks import Masks
from visionkit.data.readers.mixture import Mixture
from visionkit.data.readers.panoptic import CocoPanoptic
from visionkit.data.readers.shapes import Shapes
from visionkit.data.readers.single import SingleObject
from visionkit.data.readers.voc import Voc
from visionkit.data.readers.yolo import Yolo

__all__ = [
    "Auto",
    "Coco",
    "CocoPanoptic",
    "Csv",
    "Folder",
    "Joined",
    "Masks",
    "Mixture",
    "Shapes",
    "SingleObject",
    "Voc",
    "Yolo",
]
