"""The classification head of a network that is written as a list of layers: what stands there from `flatten` on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from visionkit.backbones.plain import sequence
from visionkit.backbones.plain_layers import Dense, Softmax, Step, follow, refuse_step
from visionkit.errors import ConfigError
from visionkit.finishing import Finishing, start_classifications
from visionkit.heads.class_loss import ClassLoss
from visionkit.predictions import Classification
from visionkit.structures import Decoded, Features, FeatureSpec, Geometry, Targets


class PlainClassification(nn.Module):
    """`flatten`, then dense layers, dropout and batch normalization, to logits; softmax or sigmoid when decoding.

    Since each cell of the map has weights of its own, this head takes canvases of one size alone, and reads what lies
    beside an image on its canvas, too.

    Args:
        in_specs: the specs of at least `levels`.
        classes: names of the classes.
        layers: as in `visionkit.backbones.Plain`; what stands before `flatten` is the backbone's. The last dense layer
            has a unit a class. The list ends in softmax, or in a dense layer with activation sigmoid.
        map_size: (height, width) in cells of the level that it reads.
        levels: the one feature level that it reads.
        multi_label: an image may have several classes; the list must end in a sigmoid.
        loss, label_smoothing, focal_gamma: see `ClassLoss`, which is trained with. A list that ends in a sigmoid takes
            no loss of classes that exclude each other; one that ends in softmax takes any.

    Raises:
        ConfigError: a level that is not there, no class, a list that cannot be, or an argument that cannot be.
    """

    needs = frozenset({"class_scores"})
    finishing = Finishing("classification")

    def __init__(
        self,
        in_specs: Mapping[str, FeatureSpec],
        *,
        classes: Sequence[str],
        layers: Sequence[Any],
        map_size: Sequence[int],
        levels: Sequence[str] = ("c5",),
        multi_label: bool = False,
        loss: str = "auto",
        label_smoothing: float = 0.0,
        focal_gamma: float = 2.0,
    ) -> None:
        super().__init__()
        if len(levels) != 1 or levels[0] not in in_specs:
            said = f"reads one level, not {list(levels)}; there are {', '.join(in_specs)}"
            raise ConfigError(f"PlainClassification {said}", code="levels-unfit")
        if not classes:
            raise ConfigError(
                "PlainClassification: the class list is empty; name classes, or use data that has some",
                code="classes-missing",
            )
        height, width = map_size
        entry = (height, width, in_specs[levels[0]].channels)
        steps = follow(layers, entry, start="flatten", classes=len(classes))
        self.levels, self.classes = tuple(levels), tuple(classes)
        self.map_size, self.stride = (height, width), in_specs[levels[0]].stride
        self.multi_label = multi_label
        self.class_loss = ClassLoss(loss, multi_label=multi_label, label_smoothing=label_smoothing, gamma=focal_gamma)
        self.default_loss_weights = {self.class_loss.name: 1.0}
        self.ends_in_softmax = isinstance(steps[-1].layer, Softmax)
        _check_answer(steps[-1], self.class_loss)
        self.layers = sequence(_to_logits(steps))

    def forward(self, features: Features, sizes: Tensor) -> Tensor:
        """(B, C) logits.

        Raises:
            ValueError: the map is of another size than the head was built for.
        """
        (level,) = self.levels
        x = features[level]
        if tuple(x.shape[-2:]) != self.map_size:
            canvas = " x ".join(str(side * self.stride) for side in self.map_size)
            cells = f"{x.shape[-2]} x {x.shape[-1]} cells where {self.map_size[0]} x {self.map_size[1]} were built for"
            raise ValueError(f"PlainClassification: {level} has {cells}; give canvases of about {canvas} pixels")
        logits: Tensor = self.layers(x)
        return logits

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        """One loss, by its name (see `ClassLoss`), divided by the images that know their class."""
        return self.class_loss(self.forward(features, targets.sizes), targets)

    def decode(self, raw: Tensor, sizes: Tensor) -> Decoded:
        """scores (B, C): probabilities, by the list's softmax or sigmoid."""
        logits = raw.float()
        return {"scores": logits.softmax(1) if self.ends_in_softmax else logits.sigmoid()}

    def finish(self, decoded: Decoded, geometries: Sequence[Geometry]) -> list[Classification]:
        """One Classification an image; the geometries say only how many."""
        return self.start_finish(decoded, geometries)()

    def start_finish(self, decoded: Decoded, geometries: Sequence[Geometry]) -> Callable[[], list[Classification]]:
        """See `Head`."""
        return start_classifications(decoded, geometries)


def _check_answer(last: Step, loss: ClassLoss) -> None:
    """Refuse an end of the list that does not fit the labels or the loss."""
    if isinstance(last.layer, Softmax):
        if loss.multi_label:
            mend = "end the list in dense: {activation: sigmoid}"
            refuse_step(last, f"it gives an image one class, and multi_label=true gives it several; {mend}")
    elif not loss.is_binary:
        mend = "end the list in dense, softmax; or use loss=binary_cross_entropy"
        refuse_step(last, f"a sigmoid under a softmax cross-entropy (loss={loss.name}); {mend}")


def _to_logits(steps: Sequence[Step]) -> list[Step]:
    """The layers without the softmax, or the sigmoid, at the end."""
    if isinstance(steps[-1].layer, Softmax):
        return list(steps[:-1])
    assert isinstance(steps[-1].layer, Dense)
    return [*steps[:-1], replace(steps[-1], layer=replace(steps[-1].layer, activation="none"))]
