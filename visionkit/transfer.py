"""Weights of an earlier run as the beginning of a new one: what of them is kept, tensor by tensor."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from visionkit.engine.checkpoint import open_checkpoint
from visionkit.errors import CheckpointError, ConfigError, listed
from visionkit.interfaces import Backbone, Neck
from visionkit.model import VisionModel
from visionkit.shipped import shipped_models
from visionkit.targets import build

LOGGER = logging.getLogger("visionkit")


@dataclass(frozen=True)
class Fate:
    """What became of a tensor.

    Attributes:
        tensor: its name, in the model or, if it was left, in the weights.
        fate: "kept": taken from the weights, wholly or some classes' rows; "replaced": the weights have no such tensor,
            or one of another meaning, and training begins with random values; "left": the model has no use for it.
        why: what there is to say beyond that, or nothing.
    """

    tensor: str
    fate: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.fate:<9}{self.tensor}" + (f"  ({self.why})" if self.why else "")


def checkpoint_folder(weights: Any) -> Path | None:
    """The checkpoint or run folder that `weights` (a name, a path or {path: …}) means; None: it means no folder."""
    path = weights.get("path") if isinstance(weights, Mapping) else weights
    return Path(path) if isinstance(path, str) and Path(path).is_dir() else None


def checkpoint_statistics(folder: Path) -> dict[str, list[float]]:
    """The mean and std by which a checkpoint's model normalises images; nothing where the folder is no checkpoint."""
    try:
        told = open_checkpoint(folder, warn=lambda _: None).description["preprocess"]
        return {key: [float(value) for value in told[key]] for key in ("mean", "std")}
    except (CheckpointError, KeyError, TypeError, ValueError):
        return {}


@dataclass(frozen=True)
class Taken:
    """What a model begins with.

    Attributes:
        fates: of each tensor; none where there are no weights.
        shipped: what `weights=auto` took, in words, or nothing.
    """

    fates: list[Fate] = field(default_factory=list)
    shipped: str = ""


def take_weights(model: VisionModel, description: Mapping[str, Any], weights: Any) -> Taken:
    """Fill a new model from the `weights` of its configuration, and tell what became of each tensor.

    A checkpoint, or a run folder (its best one), gives the moving average of its weights: the whole backbone; of a neck
    and of heads of the same name and kind all tensors that fit. Where a head's class list is another, the rows of the
    classes that both lists name are kept, and those of the others begin at random. auto takes so the model that comes
    with the toolkit of which most fits, if the backbone is one of theirs. Any other weights have been loaded when the
    backbone was built, and are told of here.

    Args:
        model: with random weights, or those of its backbone.
        description: of the model (`visionkit.build.describe_model`).
        weights: none, auto, a name, a path, or {path, mean, std}.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or its backbone is another.
        ConfigError: auto, and the files that come with the toolkit are not there.
    """
    if weights in (None, "none"):
        return Taken()
    if weights == "auto":
        return _take_shipped(model, description)
    folder = checkpoint_folder(weights)
    if folder is None:
        return Taken(_told_of_backbone(model))
    try:
        checkpoint = open_checkpoint(folder)
    except CheckpointError as error:
        raise CheckpointError(f"weights={folder}: {error}", code=error.code) from error
    given = _without_preprocess(checkpoint.weights("ema"))
    misfits = _backbone_misfits(model, given)
    if misfits:
        theirs, ours = checkpoint.description.get("backbone"), description["backbone"]
        count = sum(name.startswith("backbone.") for name in model.state_dict())
        raise CheckpointError(
            f"weights={checkpoint.folder}: its backbone is {_in_words(theirs)}, and this one {_in_words(ours)}; choose "
            f"the same ({len(misfits)} of {count} tensors lack or have another shape: {listed(misfits, 2)})",
            code="weights-do-not-fit",
        )
    try:
        rules = _rules(model, description, checkpoint.description)
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{checkpoint.folder / 'model.json'}: damaged; use another checkpoint", code="checkpoint-damaged"
        ) from error
    fates, found = _matched(model, given, rules)
    model.load_state_dict(found, strict=False)
    return Taken(fates)


def _take_shipped(model: VisionModel, description: Mapping[str, Any]) -> Taken:
    best, kept = Taken(), dict[str, Tensor]()
    for one in shipped_models():
        given = _without_preprocess(one.weights())
        if not _backbone_misfits(model, given):
            fates, found = _matched(model, given, _rules(model, description, one.description))
            if len(found) > len(kept):
                best, kept = Taken(fates, one.told), found
    model.load_state_dict(kept, strict=False)
    return best


def _matched(
    model: VisionModel, given: Mapping[str, Tensor], rules: Mapping[str, _Rule]
) -> tuple[list[Fate], dict[str, Tensor]]:
    """What becomes of each tensor, and those that the model takes."""
    own = _without_preprocess(model.state_dict())
    fates, found = [], {}
    for name, value in own.items():
        part = next(part for part in rules if name.startswith(f"{part}."))
        tensor, why = rules[part].match(name.removeprefix(f"{part}."), value, given.get(name))
        fates.append(Fate(name, "replaced" if tensor is None else "kept", why))
        if tensor is not None:
            found[name] = tensor
    return [*fates, *(Fate(name, "left") for name in given if name not in own)], found


def _without_preprocess(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not name.startswith("preprocess.")}


def _backbone_misfits(model: VisionModel, given: Mapping[str, Tensor]) -> list[str]:
    """Tensors of the model's backbone that are not given, or have another shape there."""
    own = {name: value for name, value in model.state_dict().items() if name.startswith("backbone.")}
    return [name for name, value in own.items() if name not in given or given[name].shape != value.shape]


def report_weights(taken: Taken, weights: Any, folder: Path) -> None:
    """Say what became of the weights, and write a line per tensor into weights.txt of the run folder."""
    for line in told_of_weights(taken, weights, " (weights.txt)"):
        LOGGER.info(line)
    if taken.fates:
        (folder / "weights.txt").write_text("".join(f"{fate}\n" for fate in taken.fates), encoding="utf-8")


def told_of_weights(taken: Taken, weights: Any, where: str = "") -> list[str]:
    """What became of the `weights` of a configuration, in lines; none of no weights. where: it stands in full."""
    fates = taken.fates
    if not fates:
        none = "weights=auto: none are shipped for this model; it starts from random ones"
        return [none] if weights == "auto" else []
    path = weights["path"] if isinstance(weights, Mapping) else weights
    count = {fate: sum(one.fate == fate for one in fates) for fate in ("kept", "replaced", "left")}
    replaced = [one.tensor for one in fates if one.fate == "replaced" or one.why]
    source = f"weights=auto: {taken.shipped}" if taken.shipped else f"weights {path}"
    said = f"; not as they were: {listed(replaced, 4)}" if replaced else ""
    counts = f"{count['kept']} tensors kept, {count['replaced']} replaced, {count['left']} left"
    lines = [f"{source}: {counts}{where}{said}"]
    if not isinstance(weights, Mapping) and Path(path).is_file():
        lines.insert(
            0, f"weights {path}: taken to expect ImageNet's mean and std; else give weights={{path, mean, std}}"
        )
    return lines


def _told_of_backbone(model: VisionModel) -> list[Fate]:
    fates = [
        Fate(name, "kept" if name.startswith("backbone.") else "replaced")
        for name in model.state_dict()
        if not name.startswith("preprocess.")
    ]
    return [*fates, *(Fate(name, "left") for name in getattr(model.backbone, "left_out", ()))]


@dataclass(frozen=True)
class _Rule:
    """How the tensors of one part of the model are taken over.

    Attributes:
        refused: why none is, or nothing.
        rows: by tensor, the axis on which each class has one row; −1: several rows; left out: classes do not matter.
        classes, before: the class lists of the model and of the weights, where they differ.
    """

    refused: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)
    classes: Sequence[str] = ()
    before: Sequence[str] = ()

    def match(self, name: str, own: Tensor, given: Tensor | None) -> tuple[Tensor | None, str]:
        """The tensor that takes the place of `own`, or None, and what there is to say of it."""
        if given is None or self.refused:
            return None, self.refused if given is not None else ""
        if name in self.rows:
            return self._rows_by_class(own, given, self.rows[name])
        if given.shape != own.shape:
            return None, f"{tuple(given.shape)} there, {tuple(own.shape)} here"
        return given, ""

    def _rows_by_class(self, own: Tensor, given: Tensor, axis: int) -> tuple[Tensor | None, str]:
        common = [label for label in self.classes if label in self.before]
        wanted = [len(self.before) if i == axis else size for i, size in enumerate(own.shape)]
        if axis < 0 or not common or list(given.shape) != wanted:
            return None, "its classes are others"
        theirs = given.index_select(axis, torch.tensor([self.before.index(label) for label in common]))
        tensor = own.clone()
        tensor.index_copy_(axis, torch.tensor([self.classes.index(label) for label in common]), theirs.to(own))
        return tensor, f"the rows of {len(common)} of {len(self.classes)} classes: {listed(common)}"


def _rules(model: VisionModel, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, _Rule]:
    """By part of the model, as names in its state dict begin."""
    other = _Rule("this part is of another kind")
    rules = {
        "backbone": _Rule(),
        "neck": _Rule() if _same_kind(ours["neck"], theirs.get("neck")) else other,
        "loss_weights": _Rule("uncertainties are learned anew"),
    }
    for name, node in ours["heads"].items():
        before = theirs.get("heads", {}).get(name)
        if not _same_kind(node, before):
            rules[f"heads.{name}"] = other
        elif list(node["classes"]) == list(before["classes"]):
            rules[f"heads.{name}"] = _Rule()
        else:
            rows = _class_rows(model, name, node)
            classes, earlier = list(node["classes"]), list(before["classes"])
            refused = "its classes are others" if rows is None else ""
            rules[f"heads.{name}"] = _Rule(refused, rows or {}, classes, earlier)
    return rules


def _same_kind(ours: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None) -> bool:
    return ours is not None and theirs is not None and ours["_target_"] == theirs["_target_"]


def _class_rows(model: VisionModel, head: str, node: Mapping[str, Any]) -> dict[str, int] | None:
    """See `_Rule.rows`; found by building the head of `node` anew with one more class. None: it cannot be so built."""
    specs = dict(cast(Backbone, model.backbone).out_specs)
    specs |= cast(Neck, model.neck).out_specs if model.neck is not None else {}
    lists = {key for key, value in node.items() if key.startswith("class") and isinstance(value, list)}
    grown = {key: [*value, value[-1]] if key in lists else value for key, value in node.items()}
    grown["classes"] = [*node["classes"], "one more"]
    try:
        with torch.random.fork_rng(devices=[]):
            other: nn.Module = build(grown)(specs)
    except ConfigError:
        return None
    shapes = {name: value.shape for name, value in other.state_dict().items()}
    rows = {}
    for name, value in model.heads[head].state_dict().items():
        axes = [axis for axis, (more, here) in enumerate(zip(shapes[name], value.shape, strict=True)) if more != here]
        if axes:
            single = len(axes) == 1 and shapes[name][axes[0]] == value.shape[axes[0]] + 1
            rows[name] = axes[0] if single else -1
    return rows


def _in_words(node: Any) -> str:
    """A backbone as its kind and arguments."""
    if not isinstance(node, Mapping):
        return "not told"
    own = ", ".join(f"{key}={value}" for key, value in node.items() if not key.startswith("_"))
    return f"{str(node.get('_target_')).rpartition('.')[2]}({own})"
