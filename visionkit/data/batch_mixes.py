"""Batches whose images are mixed with each other, on the device, by torchvision: for image classes alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from visionkit.data.mixes import Turns, refuse
from visionkit.structures import Batch

_BATCH_STREAM = 3
"""Sets a batch's random stream apart from those of samples and of the sampler."""


class BatchMix:
    """MixUp (Zhang et al. 2018) and CutMix (Yun et al. 2019): each image is mixed with the one before it in the batch.

    One share is drawn for the whole batch, from Beta(alpha, alpha). What is drawn is a pure function of the seed and
    the batch's number, so that neither a resume nor the number of workers changes it.

    Args:
        mixup, cutmix: alpha of either; 0: never this one. With both, each has half of the mixed batches.
        p: the share of batches that are mixed.
        seed: of all that is random here.

    Raises:
        ConfigError: a value cannot be.
    """

    def __init__(self, *, mixup: float, cutmix: float, p: float, seed: int) -> None:
        key = "augment.batch_mix"
        refuse(
            key,
            [
                (not 0 <= mixup < float("inf"), f"mixup={mixup}: a number of 0 or more"),
                (not 0 <= cutmix < float("inf"), f"cutmix={cutmix}: a number of 0 or more"),
                (p > 0 and mixup == cutmix == 0, f"p={p}: mixup or cutmix above 0, or p=0,"),
            ],
        )
        self.turns = Turns(key, p, None)
        self.seed = seed
        self.kinds: list[v2.MixUp | v2.CutMix] = []
        if mixup > 0:
            self.kinds.append(v2.MixUp(alpha=mixup))
        if cutmix > 0:
            self.kinds.append(v2.CutMix(alpha=cutmix))

    def __call__(self, batch: Batch, number: int) -> Batch:
        """Mix the batch of this number, counted from 0 over the run.

        `class_scores` are mixed like the pixels; they are unknown where they are of one of the two images, a single
        class −1 where it is −1 for one of them. Pixels keep their dtype. The valid part of a canvas is that of both.
        """
        targets = batch.targets
        assert targets.class_scores is not None
        rng = np.random.default_rng([self.seed, number, _BATCH_STREAM])
        if not self.turns.drawn(0, 1.0, rng):
            return batch
        kind = self.kinds[int(rng.integers(len(self.kinds)))]
        seed = int(rng.integers(2**63))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            pixels, scores = kind(batch.images.to(torch.float32), targets.class_scores)
        unknown = targets.class_scores < 0
        scores = torch.where(unknown | unknown.roll(1, 0), -1.0, scores)
        known = targets.known["class_scores"]
        mixed = replace(
            targets,
            class_scores=scores,
            known={**targets.known, "class_scores": known & known.roll(1, 0)},
            sizes=torch.maximum(targets.sizes, targets.sizes.roll(1, 0)),
        )
        return replace(batch, images=_as(batch.images, pixels), targets=mixed)


def _as(before: Tensor, pixels: Tensor) -> Tensor:
    """Return float32 pixels in the dtype and the memory layout of `before`."""
    rounded = pixels if before.dtype.is_floating_point else pixels.round_()
    layout = torch.channels_last if before.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return rounded.to(before.dtype).contiguous(memory_format=layout)
