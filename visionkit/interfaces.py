"""The protocols between the parts. No code: whoever has these members fits, without inheriting from anything here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from visionkit.predictions import Prediction
from visionkit.structures import Decoded, Features, FeatureSpec, Geometry, ImageId, Labels, RawOutput, Sample, Targets


@runtime_checkable
class Backbone(Protocol):
    """An nn.Module from normalised images to feature maps."""

    out_specs: Mapping[str, FeatureSpec]
    """Ordered fine to coarse: {"c2": FeatureSpec(256, 4), …}. Channels and strides are derived from it everywhere."""

    def forward(self, images: Tensor) -> Features:
        """(B, C, H, W) float, normalised -> {"c2": (B, 256, H / 4, W / 4), …}."""
        ...


@runtime_checkable
class Neck(Protocol):
    """An nn.Module from feature maps to feature maps, built as Neck(in_specs, *, out_levels, …)."""

    out_specs: Mapping[str, FeatureSpec]

    def forward(self, features: Features) -> Features:
        """The levels of `out_specs`, which are those asked for by `out_levels` and no others."""
        ...


@runtime_checkable
class Head(Protocol):
    """An nn.Module that answers one question, built as Head(in_specs, *, classes, levels=(…), …).

    A head may also have `start_finish(decoded, geometries)`, which asks the device for what `finish` needs, waits for
    nothing, and returns what gives the predictions of `finish`; so a model's heads need not wait for each other. One
    that has `finishing` (`visionkit.finishing.Finishing`), which says how its decoded tensors become predictions, can
    be exported.
    """

    levels: tuple[str, ...]
    """The feature levels that it reads, from the backbone or the neck."""
    needs: frozenset[str]
    """The fields of `Targets` that its loss reads; names of `LABEL_FIELDS`."""
    classes: tuple[str, ...]
    """Its own class list; readers are mapped to it by name."""

    def forward(self, features: Features, sizes: Tensor) -> RawOutput:
        """Raw tensors. sizes: (B, 2) int64, the part of each canvas that holds image.

        The logits of the classes are the tensor itself or its "logits": (B, C) for the whole image, (B, A, C) for A
        cells where boxes are told, (B, C, h, w) for a map.
        """
        ...

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        """Named, unweighted scalar losses, each divided by `targets.total(field)`.

        Rows that do not know the field add zero, with a gradient path.
        """
        ...

    def decode(self, raw: RawOutput, sizes: Tensor) -> Decoded:
        """Padded batch tensors in network pixels with `valid`."""
        ...

    def finish(self, decoded: Decoded, geometries: Sequence[Geometry]) -> list[Prediction]:
        """One prediction an image, in original pixels."""
        ...


@runtime_checkable
class LearningHead(Protocol):
    """A `Head` whose `loss(features, targets)` is `learned_losses(learned(features), features, targets)`.

    So divided, what needs no labels is replayed as a CUDA graph with the backbone in training.
    """

    def learned(self, features: Features) -> dict[str, Tensor]:
        """What its loss reads of the features, without waiting for the device."""
        ...

    def learned_losses(self, learned: Mapping[str, Tensor], features: Features, targets: Targets) -> dict[str, Tensor]:
        """See `Head.loss`; of the features only shapes may be read."""
        ...


@runtime_checkable
class Merge(Protocol):
    """An answer made from those of several heads, built as Merge(heads, …) from the built heads by name."""

    reads: tuple[str, ...]
    """The names of the heads whose predictions it takes."""
    needs: frozenset[str]
    """The fields of `LABEL_FIELDS` that its metric reads."""
    classes: tuple[str, ...]

    def metric(self) -> Metric:
        """A fresh metric of what it makes."""
        ...

    def merge(self, predictions: Mapping[str, Prediction]) -> Prediction:
        """One image's predictions by head name, in original pixels -> the merged one."""
        ...


@runtime_checkable
class Reader(Protocol):
    """One split of one data set, read lazily.

    A reader may also have `image_file(index)`, the path of an image and the `Decoding` by which `read` decodes it, so
    that it can be kept on disk and decoded at a part of its size; and `prepare(count)`, which makes the first `count`
    images (None: all) where they are made and not read.
    """

    classes: Sequence[str]
    """The classes of boxes, masks and whole images."""
    category_ids: Sequence[int | str]
    """The source's own id of each of `classes`; returned in predictions.json."""
    semantic_classes: Sequence[str]
    """The classes of semantic maps; empty where the source has none."""
    image_ids: Sequence[ImageId]
    file_names: Sequence[str]
    """Relative to the data root, with forward slashes."""
    fields: frozenset[str]
    """The fields of `LABEL_FIELDS` that the source can know."""

    def __len__(self) -> int: ...

    def labels(self, index: int) -> Labels:
        """The labels of image `index`, without touching its pixels."""
        ...

    def read(self, index: int) -> Sample:
        """Image and labels in original pixels."""
        ...


@runtime_checkable
class Metric(Protocol):
    """A metric whose state is keyed by image id, so that merging ranks counts no image twice."""

    headline: str
    """The number of `compute` that selects the best checkpoint; higher is better."""

    def update(self, image_id: ImageId, prediction: Prediction, truth: Labels) -> None:
        """Take one image's prediction and truth, both in original pixels."""
        ...

    def state(self) -> Mapping[ImageId, Any]: ...

    def merge(self, states: Iterable[Mapping[ImageId, Any]]) -> None: ...

    def compute(self) -> dict[str, float]:
        """The numbers by name. A number that cannot be is nan, its reason in `reasons`; never −1."""
        ...

    reasons: Mapping[str, str]
    """Why a number of `compute` is nan, by the number's name."""


@runtime_checkable
class ClassTable(Protocol):
    """A metric that tells several numbers of each class."""

    def class_table(self) -> dict[str, dict[str, float]]:
        """By class, in their order: the same numbers by name, and last how many there are to be found, as "objects" or
        "images".

        Where a class has none, its numbers are nan.
        """
        ...
