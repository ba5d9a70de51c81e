"""The beginning of another reader."""

from __future__ import annotations

from visionkit.interfaces import Reader
from visionkit.structures import Labels, Sample


class First:
    """The first `count` images of a reader, for quick looks (`debug.images`)."""

    def __init__(self, reader: Reader, count: int) -> None:
        self.reader = reader
        self.classes, self.category_ids = reader.classes, reader.category_ids
        self.semantic_classes, self.fields = reader.semantic_classes, reader.fields
        self.image_ids, self.file_names = reader.image_ids[:count], reader.file_names[:count]

    def __len__(self) -> int:
        return len(self.image_ids)

    def labels(self, index: int) -> Labels:
        """The labels of image `index`."""
        return self.reader.labels(index)

    def read(self, index: int) -> Sample:
        """Image and labels in original pixels."""
        return self.reader.read(index)
