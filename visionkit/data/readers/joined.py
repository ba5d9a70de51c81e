"""Several readers of the same images, each of which knows something else of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from visionkit.data.cache import image_file
from visionkit.data.fingerprint import parts_of
from visionkit.data.readers.source import semantic_category_ids
from visionkit.data.recent import narrowed
from visionkit.data.validate import Problem, class_counts
from visionkit.errors import ConfigError
from visionkit.interfaces import Reader
from visionkit.structures import Decoding, Labels, Sample


class Joined:
    """The images of the first reader, with what all readers know of them; an image is the same by its file name.

    Args:
        root: the folder, the same for all.
        split: the name of the split, the same for all.
        readers: by any name, a reader of which root, split and on_error are still missing. The first gives the images
            and their ids; what another one does not know of an image stays unknown.
        classes, channels, bit_depth: handed to the first reader, classes if given.
        on_error: handed to every reader.

    Attributes:
        problems, notes: those of all readers.

    Raises:
        ConfigError: two readers know the same field or have different class lists, or there is none.
        DataError: from the readers.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        readers: Mapping[str, Callable[..., Reader]],
        classes: Sequence[str] | None = None,
        on_error: str = "stop",
        channels: int = 3,
        bit_depth: int | str = 8,
    ) -> None:
        if not readers:
            raise ConfigError("data.reader.readers: no reader; name at least one", code="value-missing")
        self.root, self.split = Path(root), split
        self.readers: list[Reader] = []
        for make in readers.values():
            wanted: dict[str, Any] = {}
            if not self.readers and classes is not None:
                wanted["classes"] = classes
            if not self.readers and (channels, bit_depth) != (3, 8):
                wanted |= {"channels": channels, "bit_depth": bit_depth}
            self.readers.append(make(root, split, on_error=on_error, **wanted))
        first = self.readers[0]
        self.image_ids, self.file_names = first.image_ids, first.file_names
        owner: dict[str, str] = {}
        for name, reader in zip(readers, self.readers, strict=True):
            for field in sorted(reader.fields):
                if owner.setdefault(field, name) != name:
                    raise ConfigError(
                        f"data.reader.readers: {owner[field]} and {name} both know {field}; keep one",
                        code="keys-contradict",
                    )
        self.fields = frozenset(owner)
        with_classes = next((reader for reader in self.readers if len(reader.classes)), first)
        self.classes, self.category_ids = with_classes.classes, with_classes.category_ids
        with_pixels = next((reader for reader in self.readers if len(reader.semantic_classes)), first)
        self.semantic_classes = with_pixels.semantic_classes
        self.semantic_category_ids = semantic_category_ids(with_pixels)
        for name, reader in zip(readers, self.readers, strict=True):
            for own, ours in ((reader.classes, self.classes), (reader.semantic_classes, self.semantic_classes)):
                if len(own) and tuple(own) != tuple(ours):
                    raise ConfigError(
                        f"data.reader.readers.{name}: its classes differ; give all the same classes",
                        code="keys-contradict",
                    )
        self.problems: list[Problem] = [one for reader in self.readers for one in getattr(reader, "problems", ())]
        self.notes = [note for reader in self.readers for note in getattr(reader, "notes", ())]
        places = [{name: place for place, name in enumerate(reader.file_names)} for reader in self.readers]
        rows = [[own.get(name, -1) for own in places] for name in self.file_names]
        self._rows = np.array(rows, np.int64).reshape(-1, len(self.readers))
        for name, by_name, column in zip(readers, places, self._rows.T, strict=True):
            missing, surplus = int((column < 0).sum()), len(by_name) - int((column >= 0).sum())
            if missing or surplus:
                self.notes.append(f"{name}: {missing} images without labels, {surplus} that the first lacks, left out")

    def __len__(self) -> int:
        return len(self.file_names)

    def labels(self, index: int) -> Labels:
        """What all readers know of image `index`."""
        return self._merged(index, self.readers[0].labels(index))

    def narrowed(self, fields: frozenset[str]) -> Joined:
        """Return the same images with labels of `fields` alone: the other readers are not asked."""
        used = [place for place, reader in enumerate(self.readers) if place == 0 or reader.fields & fields]
        reader = copy(self)
        reader.readers = [narrowed(self.readers[place], fields) for place in used]
        reader.fields = frozenset().union(*(one.fields for one in reader.readers))
        reader._rows = self._rows[:, used]
        return reader

    def image_file(self, index: int) -> tuple[Path, Decoding] | None:
        """The image file and how it is decoded, where the first reader has such."""
        return image_file(self.readers[0], index)

    def read(self, index: int) -> Sample:
        """Image and labels in original pixels."""
        sample = self.readers[0].read(index)
        return replace(sample, labels=self._merged(index, sample.labels))

    def class_counts(self) -> np.ndarray | None:
        """(C,) int64: objects (or whole images) per class, None where no reader can tell."""
        counts = [class_counts(reader) for reader in self.readers if len(reader.classes)]
        return next((one for one in counts if one is not None), None)

    def label_parts(self) -> list[Any]:
        """What `labels` are made of (`visionkit.data.fingerprint`)."""
        return [self._rows, [parts_of(reader) for reader in self.readers]]

    def _merged(self, index: int, labels: Labels) -> Labels:
        for reader, place in zip(self.readers[1:], self._rows[index].tolist()[1:], strict=True):
            if place >= 0:
                other = reader.labels(place)
                known = {f.name: getattr(other, f.name) for f in fields(other) if f.name != "size"}
                labels = replace(labels, **{name: value for name, value in known.items() if value is not None})
        return labels
