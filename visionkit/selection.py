"""Which of a model's answers are wanted: some classes alone, and those of a sufficient score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from visionkit.errors import UserError, did_you_mean, listed
from visionkit.predictions import (
    Classification,
    Detections,
    Instances,
    Localization,
    PanopticMap,
    Prediction,
    SemanticMap,
)
from visionkit.structures import IGNORE_INDEX

Score = float | Mapping[str, float] | None
"""One threshold for all classes, or by class, the others' being `usual`; None: `usual` for all."""


class Selection:
    """Leaves out objects of other classes and of too low a score.

    Of classifications, localizations and maps only the classes count: of an image's scores those of other classes
    become 0, so that the best one is among the wanted; a map's pixels of other classes become `IGNORE_INDEX`, a
    panoptic one's segments are left out.

    Args:
        known: each head's class names.
        classes: the wanted ones; None: all.
        score: the least score of an object.
        usual: the threshold of classes for which `score` names none.

    Raises:
        UserError: no head has such a class, or a score is not from 0 to 1.
    """

    def __init__(
        self,
        known: Mapping[str, Sequence[str]],
        classes: Sequence[str] | None = None,
        score: Score = None,
        *,
        usual: float = 0.0,
    ) -> None:
        every = list(dict.fromkeys(name for names in known.values() for name in names))
        by_class = dict(score) if isinstance(score, Mapping) else {}
        if isinstance(classes, str):
            raise UserError(f"classes={classes}: a list is wanted, such as [{classes}]", code="value-unfit")
        for key, names in (("classes", classes or ()), ("score", by_class)):
            for name in names:
                if name not in every:
                    hint = did_you_mean(str(name), every)
                    raise UserError(
                        f"{key}: there is no class '{name}'{hint}; the model knows {listed(every, 20)}",
                        code="class-unknown",
                    )
        least = usual if score is None or isinstance(score, Mapping) else score
        for name, value in {"score": least, **{f"score.{name}": one for name, one in by_class.items()}}.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise UserError(f"{name}={value}: a share from 0 to 1 is wanted", code="value-unfit")
        self._wanted = {
            head: np.array([classes is None or name in classes for name in names], bool)
            for head, names in known.items()
        }
        self._least = {
            head: np.array([by_class.get(name, least) for name in names], np.float32) for head, names in known.items()
        }

    def __call__(self, predictions: Mapping[str, Prediction]) -> dict[str, Prediction]:
        """Return what is wanted of one image's predictions by head name."""
        return {head: self._of(head, one) for head, one in predictions.items()}

    def _of(self, head: str, one: Prediction) -> Prediction:
        wanted, least = self._wanted[head], self._least[head]
        if isinstance(one, Detections | Instances):
            keep = wanted[one.labels] & (one.scores >= least[one.labels])
            return one if keep.all() else one.select(np.flatnonzero(keep))
        if wanted.all():
            return one
        if isinstance(one, Classification | Localization):
            return replace(one, scores=np.where(wanted, one.scores, 0).astype(one.scores.dtype))
        if isinstance(one, SemanticMap):
            table = np.full(256, IGNORE_INDEX, np.uint8)
            table[: len(wanted)][wanted] = np.flatnonzero(wanted)
            return replace(one, classes=table[one.classes])
        assert isinstance(one, PanopticMap)
        segments = tuple(segment for segment in one.segments if wanted[segment.label])
        kept = np.isin(one.ids, [segment.id for segment in segments])
        return replace(one, ids=np.where(kept, one.ids, 0).astype(one.ids.dtype), segments=segments)
