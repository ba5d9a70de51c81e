"""Which images a split of mask images has, and which mask belongs to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visionkit.data.readers.source import whole_images
from visionkit.data.readers.splits import Division, unknown_split, unused_splits
from visionkit.data.readers.templates import (
    check_template,
    choose_layout,
    files_of,
    files_of_splits,
    folder_stars,
    path_of,
    splits_of,
)
from visionkit.data.validate import Problem
from visionkit.errors import ConfigError, listed

LAYOUTS = (
    ("images/{split}/{name}", "masks/{split}/{name}"),
    ("{split}/images/{name}", "{split}/masks/{name}"),
    ("{split}/{name}", "{split}annot/{name}"),
    ("leftImg8bit/{split}/*/{name}_leftImg8bit.png", "gtFine/{split}/*/{name}_gtFine_labelIds.png"),
    ("images/{name}", "masks/{name}"),
)


@dataclass(frozen=True, eq=False)
class MaskPairs:
    """The N images of a split that are whole and have a mask of their size.

    Attributes:
        image_ids: numbers from 1 in the order of the names, faulty ones counted.
        images, masks: files, relative to the data's folder.
        sizes: (N, 2) int64, (height, width).
        problems: the faults of the others.
        notes: what was done that somebody may not expect.
    """

    image_ids: list[int]
    images: list[str]
    masks: list[str]
    sizes: np.ndarray
    problems: list[Problem]
    notes: list[str]


def find_mask_pairs(
    root: Path, division: Division, images: str | None, masks: str | None, *, skip_unlabelled: bool
) -> MaskPairs:
    """Return the images of the division's split with their masks.

    Args:
        root: the data's folder.
        division: counts for the images of all splits where it is given.
        images: a template, see `visionkit.data.readers.Masks`.
        masks: the same.
        skip_unlabelled: whether an image without mask is left out with a note, and not a fault.

    Raises:
        DataError: the split is not there, or empty.
        ConfigError: a template is wrong.
    """
    layout = _templates(root, None if division.is_given else division.split, images, masks)
    splits = splits_of(root, layout) if any("{split}" in template for template in layout) else []
    is_pooled = division.is_given and bool(splits)
    if is_pooled:
        found, beside = (files_of_splits(root, template, splits) for template in layout)
    else:
        found, beside = (files_of(root, template, division.split) for template in layout)
    names, notes, problems = list(found), [], []
    if is_pooled or not splits:
        chosen = division.choose({name: files[0] for name, files in found.items()}, root)
        names, problems = chosen.names, [*chosen.problems]
        notes += [*chosen.notes, *(unused_splits(splits) if is_pooled else ())]
    if skip_unlabelled:
        bare = {name for name in names if name not in beside}
        names = [name for name in names if name not in bare]
        notes += [f"images without a mask were left out: {len(bare)}"] if bare else []
    by_split = ["{split}" in template for template in layout]
    alone = len(set(beside) - set(found)) if by_split[0] == by_split[1] else 0
    notes += [f"masks without an image: {alone}"] if alone else []
    pairs: list[tuple[int, str, str]] = []
    for number, name in enumerate(names, 1):
        split, bare_name = name.split("/", 1) if is_pooled else (division.split, name)
        files = (found[name], beside.get(name, []))
        fault = _pair_fault(root, files, [path_of(template, split, bare_name) for template in layout])
        if fault is None:
            pairs.append((number, files[0][0], files[1][0]))
        else:
            problems.append(fault)
    return _of_one_size(root, pairs, problems, notes)


def _templates(root: Path, split: str | None, images: str | None, masks: str | None) -> Sequence[str]:
    if images is None and masks is None:
        return choose_layout(root, LAYOUTS, split)
    if images is None or masks is None:
        missing = "images" if images is None else "masks"
        raise ConfigError(f"data.reader.{missing}: give images and masks both, or neither", code="value-missing")
    check_template(images, "data.reader.images")
    check_template(masks, "data.reader.masks")
    if folder_stars(images) != folder_stars(masks):
        raise ConfigError(
            f"data.reader.masks={masks}: as many folders * as in data.reader.images={images} are wanted",
            code="value-unfit",
        )
    splits = splits_of(root, (images, masks))
    if "{split}" in images + masks and (split not in splits if split is not None else not splits):
        raise unknown_split(split or "{split}", splits, root)
    return images, masks


def _pair_fault(root: Path, files: tuple[list[str], list[str]], wanted: Sequence[str]) -> Problem | None:
    for what, there, path in zip(("image", "mask"), files, wanted, strict=True):
        if len(there) > 1:
            fault = f"several {what}s of that name: {listed(there)}"
            return Problem(str(root / path), "", fault, "keep one of them", f"{what}-ambiguous")
        if not there:
            mend = "restore it, or take the name out of the split"
            return Problem(str(root / path), "", f"there is no such {what}", mend, f"{what}-missing")
    return None


def _of_one_size(
    root: Path, pairs: Sequence[tuple[int, str, str]], problems: list[Problem], notes: list[str]
) -> MaskPairs:
    images, sizes, faults = whole_images([root / image for _, image, _ in pairs])
    kept, mask_sizes, mask_faults = whole_images([root / pairs[i][2] for i in images])
    problems = [*problems, *faults, *(_of_mask(fault) for fault in mask_faults)]
    equal = []
    for place, size in zip(kept, mask_sizes, strict=True):
        if (sizes[place] == size).all():
            equal.append(place)
            continue
        _, image, mask = pairs[images[place]]
        fault = f"the mask is {size[1]} x {size[0]} but {image} is {sizes[place][1]} x {sizes[place][0]}"
        problems.append(Problem(str(root / mask), "", fault, "give the mask the size of its image", "mask-size"))
    own = [pairs[images[place]] for place in equal]
    return MaskPairs(
        [number for number, _, _ in own],
        [image for _, image, _ in own],
        [mask for _, _, mask in own],
        sizes[equal],
        problems,
        notes,
    )


_RULES: Mapping[str, str] = {"image-missing": "mask-missing", "image-unreadable": "mask-unreadable"}


def _of_mask(fault: Problem) -> Problem:
    """The fault of a mask file, which was looked at as images are."""
    return Problem(fault.file, fault.where, fault.fault, fault.mend, _RULES.get(fault.rule, fault.rule))
