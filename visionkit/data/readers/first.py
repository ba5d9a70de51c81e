"""The beginning of another reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from visionkit.data.cache import image_file, prepare
from visionkit.data.class_map import field_classes
from visionkit.data.fingerprint import parts_of
from visionkit.data.readers.source import semantic_category_ids
from visionkit.data.recent import narrowed
from visionkit.interfaces import Reader
from visionkit.structures import Decoding, Labels, Sample


class First:
    """The first `count` images of a reader, for quick looks (`debug.images`)."""

    def __init__(self, reader: Reader, count: int) -> None:
        self.reader = reader
        self.classes, self.category_ids = reader.classes, reader.category_ids
        self.semantic_classes, self.semantic_category_ids = reader.semantic_classes, semantic_category_ids(reader)
        self.fields, self.field_classes = reader.fields, field_classes(reader)
        self.image_ids, self.file_names = reader.image_ids[:count], reader.file_names[:count]

    def __len__(self) -> int:
        return len(self.image_ids)

    def labels(self, index: int) -> Labels:
        """The labels of image `index`."""
        return self.reader.labels(index)

    def narrowed(self, fields: frozenset[str]) -> First:
        """The same images, with labels of `fields` alone where the reader can do so."""
        return First(narrowed(self.reader, fields), len(self))

    def image_file(self, index: int) -> tuple[Path, Decoding] | None:
        """The image file and how it is decoded, where the reader has such."""
        return image_file(self.reader, index)

    def prepare(self, count: int | None = None) -> None:
        """Let the reader make its first images, where it makes them."""
        prepare(self.reader, len(self) if count is None else min(count, len(self)))

    def label_parts(self) -> list[Any]:
        """What `labels` are made of (`visionkit.data.fingerprint`)."""
        return parts_of(self.reader)

    def read(self, index: int) -> Sample:
        """Image and labels in original pixels."""
        return self.reader.read(index)
