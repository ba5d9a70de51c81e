"""Panoptic segmentation: every pixel's class and object, from a semantic and an instance head's predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np

from visionkit.errors import ConfigError, did_you_mean, listed
from visionkit.interfaces import Head, Metric
from visionkit.metrics.panoptic import PanopticQuality
from visionkit.predictions import Instances, PanopticMap, Prediction, Segment, SemanticMap


class PanopticMerge:
    """Merges finished predictions in original pixels, so that nothing is resampled again (Kirillov et al. 2019).

    Instances are laid down by falling score; of one that others cover too much, nothing is. The semantic map fills what
    is left: its pixels of stuff become one segment a class, those of things that no instance covers stay without a
    segment, as do classes of stuff with too few pixels.

    Args:
        heads: the model's heads by name.
        semantic, instance: the names of the two heads that are merged.
        score_threshold: instances under it are left out.
        overlap: the least share of an instance's pixels that better ones leave to it.
        stuff_area: the least share of the image's pixels that a segment of stuff has.

    Attributes:
        classes: the semantic head's, then those of the instance head that it lacks.
        things: the classes of the instance head, in its order; all other classes are stuff.
        reads: the names of the heads.
        needs: the fields of `Labels` that its truth is made of.

    Raises:
        ConfigError: a head is not there or of another kind, or a share lies outside 0 to 1.
    """

    needs = frozenset({"semantic", "boxes", "masks"})

    def __init__(
        self,
        heads: Mapping[str, Head],
        *,
        semantic: str = "semantic",
        instance: str = "instance",
        score_threshold: float = 0.3,
        overlap: float = 0.5,
        stuff_area: float = 0.002,
    ) -> None:
        for key, name, field in (("semantic", semantic, "semantic"), ("instance", instance, "masks")):
            said = f"PanopticMerge: {key}={name}: "
            if name not in heads:
                there = listed([*heads])
                raise ConfigError(
                    f"{said}no head of that name{did_you_mean(name, heads)}; there are {there}", code="heads-missing"
                )
            if field not in heads[name].needs:
                raise ConfigError(f"{said}this head predicts no {field}; name one that does", code="heads-missing")
        for argument, share in (
            ("score_threshold", score_threshold), ("overlap", overlap), ("stuff_area", stuff_area),
        ):  # fmt: skip
            if not 0 <= share <= 1:
                raise ConfigError(f"PanopticMerge: {argument}={share} must be from 0 to 1", code="value-unfit")
        self.reads = (semantic, instance)
        self.things = tuple(heads[instance].classes)
        self.classes = tuple(dict.fromkeys([*heads[semantic].classes, *self.things]))
        self.score_threshold, self.overlap, self.stuff_area = score_threshold, overlap, stuff_area

    def metric(self) -> Metric:
        """Panoptic quality over these classes."""
        return cast(Metric, PanopticQuality(self.classes, self.things))

    def merge(self, predictions: Mapping[str, Prediction]) -> PanopticMap:
        """Merge one image's predictions, by head name; they stay as they are."""
        semantic, instances = (predictions[name] for name in self.reads)
        if not isinstance(semantic, SemanticMap) or not isinstance(instances, Instances):
            kinds = f"{type(semantic).__name__} and {type(instances).__name__}"
            raise TypeError(f"PanopticMerge: a SemanticMap and Instances are wanted, not {kinds}")
        ids = np.zeros(semantic.classes.shape, np.int32)
        segments = self._things(instances, ids)
        segments += self._stuff(semantic.classes, ids, len(segments))
        return PanopticMap(ids, tuple(segments))

    def _things(self, instances: Instances, ids: np.ndarray) -> list[Segment]:
        """Lay the instances into `ids`."""
        segments: list[Segment] = []
        for row in np.argsort(-instances.scores, kind="stable").tolist():
            score = float(instances.scores[row])
            if score < self.score_threshold:
                break
            mask, left, top = instances.window(row)
            window = ids[top : top + mask.shape[0], left : left + mask.shape[1]]
            seen = mask & (window == 0)
            area = int(np.count_nonzero(seen))
            if area == 0 or area < self.overlap * np.count_nonzero(mask):
                continue
            number = len(segments) + 1
            window[seen] = number
            label = self.classes.index(self.things[int(instances.labels[row])])
            segments.append(Segment(number, label, True, score, area))
        return segments

    def _stuff(self, classes: np.ndarray, ids: np.ndarray, used: int) -> list[Segment]:
        """Fill what is free in `ids` with stuff; `used`: the ids given away."""
        stuff = np.array([name not in self.things for name in self.classes] + [False] * 256)[:256]
        free = (ids == 0) & stuff[classes]
        areas = np.bincount(classes[free], minlength=256)
        large = np.flatnonzero((areas > 0) & (areas >= self.stuff_area * ids.size))
        numbers = np.zeros(256, np.int32)
        numbers[large] = used + 1 + np.arange(len(large))
        ids[free] = numbers[classes[free]]
        return [Segment(int(numbers[label]), int(label), False, 1.0, int(areas[label])) for label in large]
