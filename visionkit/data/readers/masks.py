"""Mask images beside photographs: class numbers, palettes or colours by pixel, or instance ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from visionkit.data.decode import decode
from visionkit.data.readers.mask_files import ValueMap, instances, read_values
from visionkit.data.readers.names import Names, class_numbers
from visionkit.data.readers.objects import Box, make_table
from visionkit.data.readers.source import choose_classes, open_root, whole_images
from visionkit.data.readers.splits import Positions, check_division, divided, unknown_split
from visionkit.data.readers.templates import check_template, choose_layout, files_of, listed_names, splits_of
from visionkit.data.validate import ON_ERROR, Problem, check_on_error, settle
from visionkit.errors import ConfigError, DataError, did_you_mean, listed
from visionkit.structures import Labels, Sample

KINDS = ("semantic", "instances")
LAYOUTS = (
    ("images/{split}/{name}", "masks/{split}/{name}"),
    ("{split}/images/{name}", "{split}/masks/{name}"),
    ("{split}/{name}", "{split}annot/{name}"),
    ("images/{name}", "masks/{name}"),
)
_LOOKED_AT = 64
_THREADS = 8


class Masks:
    """One split of a folder with images and, for each, a mask image of the same size.

    kind "semantic": a mask's values (a palette's indices, or colours where `names` gives colours) are class numbers,
    and the field `semantic` is known. kind "instances": the values are instance ids, 0 the background, gaps allowed,
    all of one class; `boxes` and `masks` are known. A box encloses its instance's pixels; an area counts them.

    Which images: those of the split's own folder, where the templates have {split}; else those that
    `lists`, `positions` or `fractions` give to the split, by default 0.8 train and 0.2 val. Image ids number a split's
    images from 1.

    Args:
        root: the folder.
        split: the name of the split.
        classes: semantic: the wanted classes in their order; pixels of others become ignored. Without `names` they
            count the files' values from 0. instances: the one class; None means "object".
        names: semantic: what stands for each class in the files: [sky, road] counts from 0; {sky: 3, road: 7};
            {sky: [128, 128, 128], road: [128, 64, 128]} for colours; or a YAML file with `names` or `classes`.
        ignore_index: the value of pixels without a label.
        ignore_values: further such values, or colours.
        kind: "semantic" or "instances".
        images, masks: templates of both (`visionkit.data.readers.templates`), such as "JPEGImages/{name}.jpg" and
            "PedMasks/{name}_mask.png". None means the first of `LAYOUTS` that is there.
        lists: a list file of image names per split, such as "ImageSets/{split}.txt".
        positions: see `visionkit.data.readers.splits.Positions`.
        fractions: the share of each split; images fall by name and seed.
        unlabelled: what an image without mask is: "stop" counts it as a fault, "skip" leaves it out with a note.
        on_error: "stop" raises for all faults at once; of semantic masks, 64 are looked into beforehand, the others
            when they are read. "skip" looks into all masks, leaves out the images of faulty ones and keeps the faults
            in `problems`.
        seed: draws another division by fractions.

    Attributes:
        problems: what was left out, and why.
        notes: what was done that somebody may not expect, one line each.
        semantic_category_ids: the files' own number of each of `semantic_classes`; of colours, numbers from 1.

    Raises:
        DataError: the folder or split is not there, or there are faults and `on_error` is "stop".
        ConfigError: an argument is wrong.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        names: Names | None = None,
        ignore_index: int | None = None,
        ignore_values: Sequence[int | Sequence[int]] = (),
        kind: str = "semantic",
        images: str | None = None,
        masks: str | None = None,
        lists: str | None = None,
        positions: Positions | None = None,
        fractions: Mapping[str, float] | None = None,
        unlabelled: str = "stop",
        on_error: str = "stop",
        seed: int = 0,
    ) -> None:
        check_on_error(on_error)
        check_division(fractions, positions, split)
        if kind not in KINDS:
            raise ConfigError(f"data.reader.kind={kind}: {listed(KINDS)} is wanted{did_you_mean(kind, KINDS)}")
        if unlabelled not in ON_ERROR:
            raise ConfigError(f"data.reader.unlabelled={unlabelled}: {listed(ON_ERROR)} is wanted")
        self.root, self.split, self.kind = open_root(root), split, kind
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        ignored = [*ignore_values, *(() if ignore_index is None else (ignore_index,))]
        layout = _templates(self.root, split, images, masks)
        found = files_of(self.root, layout[0], split)
        beside = files_of(self.root, layout[1], split)
        chosen = self._members(found, layout, lists, positions, fractions, seed)
        if unlabelled == "skip":
            bare = [name for name in chosen if name in found and name not in beside]
            chosen = [name for name in chosen if name not in set(bare)]
            self.notes += [f"images without a mask were left out: {len(bare)}"] if bare else []
        self._keep_pairs(chosen, found, beside, layout)
        self.category_ids: Sequence[int | str] = ()
        self.classes: Sequence[str] = ()
        self.semantic_classes: Sequence[str] = ()
        self.semantic_category_ids: Sequence[int | str] = ()
        self._values: ValueMap | None = None
        if kind == "semantic":
            self._keep_classes(classes, names, ignored)
            self._look_into_masks(on_error)
            self.fields = frozenset({"semantic"})
        else:
            self.classes, self.category_ids = _one_class(classes, names), (1,)
            self._keep_instances(ignored)
            self.fields = frozenset({"boxes", "masks"})
        settle(self.problems, on_error)

    def __len__(self) -> int:
        return len(self.file_names)

    def labels(self, index: int) -> Labels:
        """The semantic map, read from its file (DataError where it cannot be used); or boxes and masks, held ready."""
        size = (int(self._sizes[index][0]), int(self._sizes[index][1]))
        if self._values is not None:
            return Labels(size=size, semantic=self._values.read(self.root / self.mask_names[index]))
        rows, table = self._objects.rows(index), self._objects
        return Labels(
            size=size,
            boxes=table.boxes[rows].copy(),
            labels=table.labels[rows].copy(),
            areas=table.areas[rows].copy(),
            masks=tuple({"size": [*size], "counts": counts} for counts in self._counts[index]),
        )

    def path(self, index: int) -> Path:
        """The image file."""
        return self.root / self.file_names[index]

    def read(self, index: int) -> Sample:
        """Image and labels. Raises DataError when a file cannot be decoded."""
        return Sample(decode(self.path(index)), self.labels(index), self.image_ids[index], self.file_names[index])

    def class_counts(self) -> np.ndarray:
        """(C,) int64: instances per class; (0,) for semantic masks."""
        return np.zeros(0, np.int64) if self._values is not None else self._objects.class_counts(1)

    # ------------------------------------------------------------------------------------------------ construction
    def _members(
        self,
        found: Mapping[str, list[str]],
        layout: Sequence[str],
        lists: str | None,
        positions: Positions | None,
        fractions: Mapping[str, float] | None,
        seed: int,
    ) -> list[str]:
        given = [name for name, value in (("positions", positions), ("fractions", fractions)) if value is not None]
        if given and (lists is not None or "{split}" in layout[0]):
            raise ConfigError(f"data.reader.{given[0]}: the splits have lists or folders of their own; leave it out")
        if lists is not None:
            file = self.root / lists.replace("{split}", self.split)
            if not file.is_file():
                there = [entry.stem for entry in file.parent.glob(f"*{file.suffix}")]
                raise unknown_split(self.split, there, file.parent)
            return listed_names(file, found)
        if "{split}" in layout[0]:
            return list(found)
        members, notes = divided(
            found, self.split, fractions=fractions, positions=positions, seed=seed, where=self.root
        )
        self.notes += notes
        return members

    def _keep_pairs(
        self,
        names: Sequence[str],
        found: Mapping[str, list[str]],
        beside: Mapping[str, list[str]],
        layout: Sequence[str],
    ) -> None:
        pairs: list[tuple[int, str, str]] = []
        for number, name in enumerate(names, 1):
            files = [found.get(name, []), beside.get(name, [])]
            if all(len(one) == 1 for one in files):
                pairs.append((number, files[0][0], files[1][0]))
                continue
            which = 0 if len(files[0]) != 1 else 1
            wanted = self.root / layout[which].replace("{split}", self.split).replace("{name}", name)
            what, count = ("image", "mask")[which], len(files[which])
            fault = f"several {what}s of that name: {listed(files[which])}" if count else f"there is no such {what}"
            mend = "keep one of them" if count else "restore it, or take the name out of the split"
            self.problems.append(Problem(str(wanted), "", fault, mend))
        alone = len(set(beside) - set(found))
        if alone:
            self.notes.append(f"masks without an image: {alone}")
        images, sizes, faults = whole_images([self.root / image for _, image, _ in pairs])
        kept, mask_sizes, mask_faults = whole_images([self.root / pairs[i][2] for i in images])
        self.problems += faults + mask_faults
        equal = []
        for place, size in zip(kept, mask_sizes, strict=True):
            if (sizes[place] == size).all():
                equal.append(place)
                continue
            _, image, mask = pairs[images[place]]
            fault = f"the mask is {size[1]} x {size[0]} but {image} is {sizes[place][1]} x {sizes[place][0]}"
            self.problems.append(Problem(str(self.root / mask), "", fault, "give the mask the size of its image"))
        self.image_ids = [pairs[images[place]][0] for place in equal]
        self.file_names = [pairs[images[place]][1] for place in equal]
        self.mask_names = [pairs[images[place]][2] for place in equal]
        self._sizes = sizes[equal]

    def _leave_out(self, faults: Mapping[int, str], mend: str = "restore the mask, or remove it") -> None:
        for index, said in faults.items():
            file = str(self.root / self.mask_names[index])
            fault, _, own = said.removeprefix(f"{file}: ").partition("; ")
            self.problems.append(Problem(file, "", fault, own or mend))
        kept = [index for index in range(len(self)) if index not in faults]
        self.image_ids = [self.image_ids[index] for index in kept]
        self.file_names = [self.file_names[index] for index in kept]
        self.mask_names = [self.mask_names[index] for index in kept]
        self._sizes = self._sizes[kept]

    def _keep_classes(self, classes: Sequence[str] | None, names: Names | None, ignored: Sequence[object]) -> None:
        given = names if names is not None else classes
        if given is None:
            seen = np.unique(read_values(self.root / self.mask_names[0])).tolist() if self.mask_names else []
            example = f" ({self.mask_names[0]} holds the values {listed(seen)})" if seen else ""
            mend = "name the classes in the order of their values, as in data.classes=[sky, road]"
            raise ConfigError(f"data.classes: the masks of {self.root} hold numbers alone{example}; {mend}")
        numbers = class_numbers(given, self.root)
        numbers = {name: value for name, value in numbers.items() if value not in ignored}
        self.semantic_classes = choose_classes(tuple(numbers), classes if names is not None else None, self.root)
        others = [name for name in numbers if name not in self.semantic_classes]
        if others:
            self.notes.append(f"pixels of classes that data.classes does not list are ignored: {listed(others)}")
        own = [numbers[name] for name in self.semantic_classes]
        self.semantic_category_ids = tuple(
            number if isinstance(number, int) else place for place, number in enumerate(own, 1)
        )
        self._values = ValueMap(self.semantic_classes, numbers, ignored)

    def _look_into_masks(self, on_error: str) -> None:
        every = len(self) <= _LOOKED_AT or on_error == "skip"
        looked = range(len(self)) if every else np.linspace(0, len(self) - 1, _LOOKED_AT).astype(int).tolist()
        with ThreadPoolExecutor(_THREADS) as threads:
            faults = dict(zip(looked, threads.map(self._mask_fault, looked), strict=True))
        self._leave_out({index: fault for index, fault in faults.items() if fault is not None})

    def _mask_fault(self, index: int) -> str | None:
        assert self._values is not None
        try:
            self._values.read(self.root / self.mask_names[index])
        except DataError as fault:
            return str(fault)
        return None

    def _keep_instances(self, ignored: Sequence[object]) -> None:
        with ThreadPoolExecutor(_THREADS) as threads:
            paths = [self.root / name for name in self.mask_names]
            found = list(threads.map(lambda path: _instances(path, ignored), paths))
        self._leave_out({index: result for index, result in enumerate(found) if isinstance(result, str)})
        usable = [result for result in found if not isinstance(result, str)]
        self._counts = [tuple(counts) for counts, _, _ in usable]
        owners = [owner for owner, (counts, _, _) in enumerate(usable) for _ in counts]
        boxes: list[Box] = [tuple(box) for _, rows, _ in usable for box in rows.tolist()]
        self._objects = make_table(
            len(self),
            owners=owners,
            boxes=boxes,
            labels=[0] * len(owners),
            ignore=[False] * len(owners),
            areas=[area for _, _, rows in usable for area in rows.tolist()],
        )


def _templates(root: Path, split: str, images: str | None, masks: str | None) -> Sequence[str]:
    if images is None and masks is None:
        return choose_layout(root, LAYOUTS, split)
    if images is None or masks is None:
        missing = "images" if images is None else "masks"
        raise ConfigError(f"data.reader.{missing}: give images and masks both, or neither")
    check_template(images, "data.reader.images")
    check_template(masks, "data.reader.masks")
    by_split = "{split}" in images + masks
    if by_split and split not in splits_of(root, (images, masks)):
        raise unknown_split(split, splits_of(root, (images, masks)), root)
    return images, masks


def _one_class(classes: Sequence[str] | None, names: Names | None) -> tuple[str, ...]:
    if names is not None:
        raise ConfigError("data.reader.names: instance ids have no names; give the one class with data.classes=[name]")
    if classes is not None and len(classes) != 1:
        raise ConfigError(
            f"data.classes={list(classes)}: an id mask tells instances of one class apart; name one class"
        )
    return tuple(classes) if classes is not None else ("object",)


def _instances(path: Path, ignored: Sequence[object]) -> tuple[list[bytes], np.ndarray, np.ndarray] | str:
    try:
        ids = read_values(path)
    except DataError as fault:
        return str(fault)
    if ignored:
        ids = np.where(np.isin(ids, np.array(ignored)), 0, ids)
    return instances(ids)
