"""An exported model in the place of a `VisionModel`: its graph is run elsewhere, its predictions are finished here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from visionkit.errors import CheckpointError, printable
from visionkit.export.card import Card
from visionkit.finishing import READS
from visionkit.predictions import Prediction
from visionkit.structures import Decoded, Geometry

Run = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""(B, C, H, W) canvases and (B, 2) sizes -> by "head.tensor" what the heads' predictions are made of."""
_DIMENSIONS = {"scores": 2, "labels": 2, "valid": 2, "boxes": 3, "coefficients": 3, "prototypes": 4, "logits": 4}


class ExportedModel:
    """Has of a `VisionModel` what prediction and evaluation need. It stays on the device that it was loaded for.

    Args:
        card: what travelled beside the graph.
        run: runs the graph.
        device: where the graph takes its canvases.
        source: the file, for messages.
    """

    training = False

    def __init__(self, card: Card, run: Run, device: torch.device, source: str) -> None:
        self.card, self.run, self.device, self.source = card, run, device, source
        self.preprocess = card.build_preprocess()
        self.heads = dict(card.heads)
        self.merges = card.build_merges()

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """The class names of each answer, heads and merges, in the order of its labels and scores."""
        heads = {name: head.classes for name, head in self.heads.items()}
        return heads | {name: merge.classes for name, merge in self.merges.items()}

    def to(self, device: torch.device | str) -> ExportedModel:
        """Stay: the graph was loaded for its device."""
        return self

    def eval(self) -> ExportedModel:
        """Stay: an exported graph does not train."""
        return self

    def decoded(self, images: Tensor, sizes: Tensor) -> dict[str, Decoded]:
        """As `VisionModel.decoded`, for canvases of the size that was exported.

        Raises:
            CheckpointError: the graph gives something else than the file says.
        """
        given = self.run(images, sizes)
        told: dict[str, Decoded] = {}
        for name, head in self.heads.items():
            told[name] = {key: given[f"{name}.{key}"] for key in READS[head.finishing.kind]}
            for key, value in told[name].items():
                if value.ndim != _DIMENSIONS[key] or len(value) != len(images):
                    shape = f"{name}.{key} of shape {tuple(value.shape)} for {len(images)} images"
                    raise CheckpointError(
                        printable(f"{self.source}: the graph gives {shape}; export the model again"),
                        code="checkpoint-damaged",
                    )
        return told

    @torch.inference_mode()
    def predict(self, images: Tensor, sizes: Tensor, geometries: Sequence[Geometry]) -> list[dict[str, Prediction]]:
        """As `VisionModel.predict`."""
        decoded = self.decoded(images, sizes)
        asked = {name: head.finishing.start(decoded[name], geometries) for name, head in self.heads.items()}
        finished = {name: predictions() for name, predictions in asked.items()}
        predictions = [{name: finished[name][i] for name in finished} for i in range(len(geometries))]
        for prediction in predictions:
            prediction.update({name: merge.merge(prediction) for name, merge in self.merges.items()})
        return predictions
