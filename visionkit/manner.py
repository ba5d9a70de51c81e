"""How a `Predictor` looks at images: once and as a whole, in tiles, several times."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from visionkit.errors import UserError, listed
from visionkit.interfaces import Merge
from visionkit.parts import Answer, Answers, CanvasScores, Run, semantic_map
from visionkit.predictions import (
    Classification,
    Detections,
    Instances,
    Localization,
    PanopticMap,
    Prediction,
    SemanticMap,
)
from visionkit.preprocess import Preprocess
from visionkit.selection import Score
from visionkit.structures import Geometry
from visionkit.tiles import seen_in_tiles
from visionkit.views import MIRRORED, VIEWS, seen_in_views

_PREDICTIONS = (Classification, Localization, Detections, Instances, SemanticMap, PanopticMap)
_MULTIPLE = 32
"""Of pixels that the side of a scaled canvas is: no stride of a usual network is larger."""
_WHOLE = ("classification", "localization")


@dataclass(frozen=True)
class Manner:
    """The arguments of `Predictor.predict`."""

    batch_size: int = 16
    tile: int | None = None
    overlap: float = 0.2
    tta: bool = False
    classes: Sequence[str] | None = None
    score: Score = None

    @property
    def looks_again(self) -> bool:
        """Whether an image is seen otherwise than once and as a whole."""
        return self.tile is not None or self.tta

    def check(self, model: Any) -> None:
        """Refuse what cannot be.

        Raises:
            UserError: a number is out of its range, or no head of the model can look at tiles.
        """
        if self.batch_size < 1:
            raise UserError(f"batch_size={self.batch_size}: at least 1 is wanted", code="value-unfit")
        if self.tile is not None:
            if isinstance(self.tile, bool) or not isinstance(self.tile, int) or self.tile < 32:
                raise UserError(
                    f"tile={self.tile}: a number of pixels, 32 or more, is wanted, such as tile=640", code="value-unfit"
                )
            kinds = {name: _kind(head) for name, head in model.heads.items()}
            if set(kinds.values()) <= set(_WHOLE):
                told = f"the model's answers ({listed([*kinds])}) are about an image as a whole, not about its parts"
                raise UserError(f"tile={self.tile}: {told}; leave tile out", code="key-not-taken")
        if not 0 <= self.overlap < 0.9:
            raise UserError(
                f"overlap={self.overlap}: a share from 0 to below 0.9 is wanted, such as overlap=0.2",
                code="value-unfit",
            )

    def look(self, run: Run, images: Sequence[np.ndarray], model: Any) -> list[Answers]:
        """Return what is said of each image, (H, W, C), by a model for which `run` predicts."""
        seen: Run = run
        if self.tta:
            seen = partial(_in_views, run, MIRRORED if has_fixed_canvas(model) else VIEWS)
        if self.tile is None:
            return list(seen(images, 1.0))
        tile = partial(seen_in_tiles, seen, tile=self.tile, overlap=self.overlap, batch_size=self.batch_size)
        return [tile(image) for image in images]


def _in_views(run: Run, views: Any, images: Sequence[np.ndarray], scale: float) -> list[Answers]:
    return seen_in_views(run, images, views, scale)


def has_fixed_canvas(model: Any) -> bool:
    """Whether the network takes canvases of one size alone: exported ones, and those that end in dense layers."""
    return not hasattr(model, "outputs") or any(hasattr(head, "map_size") for _, head in model.heads.items())


def _kind(head: Any) -> str | None:
    """Of predictions, a name of `visionkit.finishing.READS`; None: a head that does not say."""
    return getattr(getattr(head, "finishing", None), "kind", None)


def scaled(preprocess: Preprocess, scale: float) -> Preprocess:
    """The same with a canvas of `scale` times the sides, or near it."""
    if scale == 1.0:
        return preprocess
    larger = copy.copy(preprocess)
    height, width = (max(_MULTIPLE, round(side * scale / _MULTIPLE) * _MULTIPLE) for side in preprocess.canvas)
    larger.canvas = (height, width)
    return larger


@torch.inference_mode()
def network_answers(model: Any, images: Tensor, sizes: Tensor, geometries: Sequence[Geometry]) -> list[Answers]:
    """As `VisionModel.predict`, but maps as the probabilities behind them, and nothing merged."""
    told: dict[str, Sequence[Answer]] = {}
    for name, tensors in model.decoded(images, sizes).items():
        head = model.heads[name]
        if _kind(head) == "semantic":
            logits, stride = tensors["logits"], head.finishing.stride
            told[name] = [CanvasScores(logits[i], geometry, stride) for i, geometry in enumerate(geometries)]
        elif hasattr(head, "finishing"):
            told[name] = head.finishing.start(tensors, geometries)()
        else:
            told[name] = head.finish(tensors, geometries)
    return [{name: told[name][i] for name in told} for i in range(len(geometries))]


def finished(answers: Answers, merges: Mapping[str, Merge]) -> dict[str, Prediction]:
    """Predictions of one image from its answers, those of merges too."""
    predictions = {
        name: one if isinstance(one, _PREDICTIONS) else semantic_map(cast(Any, one)) for name, one in answers.items()
    }
    return predictions | {name: merge.merge(predictions) for name, merge in merges.items()}
