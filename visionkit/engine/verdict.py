"""In words: does a model underfit, overfit, or is it only held down by its augmentation? If it learned nothing, why?

A training score is lower than it could be where the images are augmented, and a validation score is never computed on
augmented ones: the two cannot be compared. So the same images of the training set are scored twice, with and without.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

OVERFITS, UNDERFITS, HELD_DOWN, FITS, NOTHING = "overfits", "underfits", "held down", "fits", "learned nothing"
_GAP, _GAP_SHARE = 0.1, 0.2
"""Clean training images are scored higher than validation images by this much, and by this share, when it overfits."""
_HELD, _HELD_SHARE = 0.15, 0.25
"""Clean training images are scored higher than augmented ones by so much where augmentation holds the model down."""
_GOOD = {"AP": 0.5, "PQ": 0.5, "mIoU": 0.65, "mAP": 0.7}
"""From which value on clean training images count as learned; other numbers are shares of images: 0.8."""
_NEAR_CHANCE = 1.5


@dataclass(frozen=True)
class Verdict:
    """What the three numbers say.

    Attributes:
        name: of the number, "head/metric".
        kind: overfits, underfits, held down, fits or learned nothing.
        train, augmented, val: the number on training images without augmentation and with it, and on validation images.
        words: a sentence with the numbers, and one with what to do.
    """

    name: str
    kind: str
    train: float
    augmented: float
    val: float
    words: str


def verdict(name: str, *, train: float, augmented: float, val: float, chance: float = 0.0) -> Verdict | None:
    """Judge by one number, higher being better; None where one of the three is nan.

    - learned nothing: the training images themselves are scored near `chance`, the value of a blind guess;
    - overfits: training images are scored higher than validation images by more than .1 and a fifth;
    - held down: without augmentation they are scored higher than with it by more than .15 and a quarter, so that the
      augmented images are another, harder task;
    - underfits: not even the training images without augmentation are learned;
    - fits: none of these.
    """
    if any(math.isnan(value) for value in (train, augmented, val)):
        return None
    numbers = (
        f"{name}: {train:.3f} on training images without augmentation, {augmented:.3f} on the same images with it, "
        f"{val:.3f} on validation images"
    )
    good = _GOOD.get(name.rpartition("/")[2], 0.8)
    if near_chance(train, chance):
        kind, advice = NOTHING, "the model has learned nothing yet"
    elif train - val > max(_GAP, _GAP_SHARE * train):
        kind = OVERFITS
        advice = (
            "the model overfits: it knows its training images better than others; more images, stronger augment, more "
            "optim.weight_decay, engine.patience or a smaller model close the gap"
        )
    elif train - augmented > max(_HELD, _HELD_SHARE * train):
        kind = HELD_DOWN
        advice = (
            "the model is held down by its augmentation alone: augmented images are a harder task than the real ones, "
            "and that says nothing of how it does on these; a weaker augment, or more epochs, may give more"
        )
    elif train < good:
        kind = UNDERFITS
        advice = (
            "the model underfits: it does not even know its training images; a larger backbone, a larger image_size or "
            "more engine.epochs help, more images do not"
        )
    else:
        kind, advice = FITS, "the model fits: it does about as well on images that it has not seen"
    return Verdict(name, kind, train, augmented, val, f"{numbers}: {advice}.")


def near_chance(value: float, chance: float) -> bool:
    """Whether a number is no better than a blind guess; not where it is nan."""
    return value <= max(_NEAR_CHANCE * chance, 0.02)


def causes(
    *, losses: Sequence[float], train: float, chance: float, predicted_classes: int | None, bad_steps: int = 0
) -> list[str]:
    """Why a run learned nothing, as far as its own numbers tell; most telling first.

    Args:
        losses: the total loss of each logged line, in order, finite.
        train: the main number on training images without augmentation; nan where it is not known.
        chance: its value for a blind guess.
        predicted_classes: how many classes the predictions name at all; None where they are not counted.
        bad_steps: steps that were left out because the loss was no number.
    """
    said = []
    if bad_steps:
        said.append(f"{bad_steps} steps were not taken, their loss was no number: lower optim.lr")
    part = max(1, len(losses) // 5)
    before, after = (_mean(losses[:part]), _mean(losses[-part:])) if len(losses) > 1 else (math.nan, math.nan)
    if after > 1.1 * before:
        said.append(
            f"the loss rose from {before:.3g} to {after:.3g}: optim.lr is too high (engine.find_lr=true finds one)"
        )
    elif after > 0.95 * before:
        said.append(
            f"the loss did not fall ({before:.3g} to {after:.3g}): optim.lr is too low or far too high "
            "(engine.find_lr=true), or the labels do not belong to the images (tools/check_data.py page=…)"
        )
    elif not math.isnan(before):
        known = not math.isnan(train)
        if known and train > max(2 * chance, 0.1):
            said.append(
                f"training images are known ({train:.3f}), others are not: val is of another kind, or its labels wrong"
            )
        else:
            said.append(f"the loss was still falling ({before:.3g} to {after:.3g}): train longer (engine.epochs)")
    if predicted_classes == 0:
        said.append("there are no predictions at all")
    elif predicted_classes == 1:
        said.append(
            "all predictions name the same class: one class may outnumber the others by far (data.repeat_factor)"
        )
    return said or ["too few steps to tell: train longer (engine.epochs)"]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
