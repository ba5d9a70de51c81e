"""Classification: what is it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from visionkit.blocks import ConvNorm
from visionkit.errors import ConfigError
from visionkit.finishing import Finishing, start_classifications
from visionkit.heads.class_loss import ClassLoss
from visionkit.ops.pooling import masked_mean, valid_cells
from visionkit.predictions import Classification
from visionkit.structures import Decoded, Features, FeatureSpec, Geometry, Targets


class LinearClassification(nn.Module):
    """Mean over the cells that hold image, dropout, one linear layer.

    Args:
        in_specs: the specs of at least `levels`.
        classes: names of the classes.
        levels: the one feature level that it reads.
        channels: of a 1x1 convolution before the mean, so that each cell may say what it sees where an image holds many
            things; None: no such convolution.
        dropout: share of the pooled features set to 0 in training.
        multi_label: an image may have several classes: a sigmoid each instead of one softmax.
        loss, label_smoothing, focal_gamma: see `ClassLoss`, which is trained with.

    Raises:
        ConfigError: a level that is not there, no class, or an argument that cannot be.
    """

    needs = frozenset({"class_scores"})
    finishing = Finishing("classification")

    def __init__(
        self,
        in_specs: Mapping[str, FeatureSpec],
        *,
        classes: Sequence[str],
        levels: Sequence[str] = ("c5",),
        channels: int | None = None,
        dropout: float = 0.2,
        label_smoothing: float = 0.0,
        multi_label: bool = False,
        loss: str = "auto",
        focal_gamma: float = 2.0,
    ) -> None:
        super().__init__()
        if len(levels) != 1 or levels[0] not in in_specs:
            said = f"reads one level, not {list(levels)}; there are {', '.join(in_specs)}"
            raise ConfigError(f"LinearClassification {said}", code="levels-unfit")
        if not classes:
            raise ConfigError(
                "LinearClassification: the class list is empty; name classes, or use data that has some",
                code="classes-missing",
            )
        if not 0 <= dropout <= 1:
            raise ConfigError(f"LinearClassification: dropout={dropout} must be from 0 to 1", code="value-unfit")
        if channels is not None and channels < 1:
            raise ConfigError(f"LinearClassification: channels={channels} must be at least 1", code="value-unfit")
        self.levels, self.classes = tuple(levels), tuple(classes)
        self.stride = in_specs[levels[0]].stride
        self.multi_label = multi_label
        self.class_loss = ClassLoss(loss, multi_label=multi_label, label_smoothing=label_smoothing, gamma=focal_gamma)
        self.default_loss_weights = {self.class_loss.name: 1.0}
        self.dropout = nn.Dropout(dropout)
        entry = in_specs[levels[0]].channels
        self.enter = nn.Identity() if channels is None else ConvNorm(entry, channels)
        self.linear = nn.Linear(entry if channels is None else channels, len(classes))

    def forward(self, features: Features, sizes: Tensor) -> Tensor:
        """(B, C) logits."""
        (level,) = self.levels
        x = self.enter(features[level])
        valid = valid_cells(sizes, (x.shape[-2], x.shape[-1]), self.stride)
        logits: Tensor = self.linear(self.dropout(masked_mean(x, valid)))
        return logits

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        """One loss, by its name (see `ClassLoss`), divided by the images that know their class."""
        return self.class_loss(self.forward(features, targets.sizes), targets)

    def decode(self, raw: Tensor, sizes: Tensor) -> Decoded:
        """scores (B, C): probabilities, each by itself after a binary loss, else of classes that exclude each other."""
        logits = raw.float()
        return {"scores": logits.sigmoid() if self.class_loss.is_binary else logits.softmax(1)}

    def finish(self, decoded: Decoded, geometries: Sequence[Geometry]) -> list[Classification]:
        """One Classification an image; the geometries say only how many."""
        return self.start_finish(decoded, geometries)()

    def start_finish(self, decoded: Decoded, geometries: Sequence[Geometry]) -> Callable[[], list[Classification]]:
        """See `Head`."""
        return start_classifications(decoded, geometries)
