"""From a checked configuration to built parts. Only here do configuration and parts meet."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from visionkit.config import build, groups, reader_arguments
from visionkit.config_data import IMAGE_KEYS
from visionkit.data.class_map import field_classes
from visionkit.data.readers.source import semantic_category_ids
from visionkit.errors import ConfigError, did_you_mean, listed
from visionkit.interfaces import Head, Metric, Reader
from visionkit.metrics import CocoDetection, CocoInstances, LocalizationAccuracy, SemanticScores, TopK
from visionkit.model import VisionModel
from visionkit.structures import Decoding
from visionkit.targets import locate, parameters

_METRIC = ("headline", "reasons", "update", "state", "merge", "compute")


def describe_model(cfg: DictConfig, reader: Reader) -> dict[str, Any]:
    """Return what a checkpoint keeps of its model: each part's `_target_` and arguments, and the class names.

    The class list of a head is `head.<name>.classes` where given, else the reader's for the labels that it needs.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    heads = {name: {"classes": _classes_of(plain["head"][name], reader), **plain["head"][name]} for name in cfg.heads}
    preprocess = dict(plain["preprocess"])
    backbone = {key: value for key, value in plain["model"]["backbone"].items() if key != "weights"}
    image_channels = plain["data"].get("channels", 3)
    backbone |= _in_channels(backbone, image_channels)
    weights = plain["weights"]
    if isinstance(weights, Mapping):
        channels = len(preprocess["mean"])
        for name in ("mean", "std"):
            value = weights.get(name, preprocess[name])
            preprocess[name] = [value] * channels if isinstance(value, int | float) else list(value)
    if len(preprocess["mean"]) != image_channels:
        count = len(preprocess["mean"])
        mend = "give one a channel"
        raise ConfigError(
            f"preprocess.mean has {count} values beside data.channels={image_channels}; {mend}", code="channels-differ"
        )
    return {
        "backbone": backbone,
        "neck": plain["model"]["neck"],
        "heads": heads,
        "merges": {name: plain["merge"][name] for name in plain["merges"]},
        "preprocess": preprocess,
        "loss_weights": _own_weights(plain["model"]["loss_weights"], cfg.heads),
        "learn_loss_weights": plain["model"]["learn_loss_weights"],
    }


def build_model(
    description: Mapping[str, Any], *, weights: str | None = None, allow: Sequence[str] | None = ()
) -> VisionModel:
    """Build a model with random weights, or with the backbone's `weights`.

    Args:
        description: see `describe_model`.
        weights: published weights or the path of a state dict, for the backbone.
        allow: the packages beside visionkit whose parts may be built; None: any (the user's own configuration).

    Raises:
        ConfigError: when parts do not fit each other.
        CheckpointError: when a part is not allowed.
    """
    if weights is not None and "weights" not in parameters(locate(description["backbone"]["_target_"])):
        name = description["backbone"]["_target_"].rpartition(".")[2]
        raise ConfigError(f"weights={weights}: {name} has no argument 'weights'; leave them out", code="key-not-taken")
    backbone = build(description["backbone"], allow=allow, **({} if weights is None else {"weights": weights}))
    partials = {name: build(node, allow=allow) for name, node in description["heads"].items()}
    neck = None
    given = dict(backbone.out_specs)
    if description["neck"] is not None:
        wanted = [level for level in head_levels(partials.values()) if level not in given]
        if not wanted:
            raise ConfigError("model.neck: no head reads a level of the neck; choose neck=none", code="levels-unfit")
        neck = build(description["neck"], backbone.out_specs, out_levels=wanted, allow=allow)()
        given.update(neck.out_specs)
    heads = {name: partial(given) for name, partial in partials.items()}
    if neck is None and hasattr(backbone, "trim"):
        read = {level for head in heads.values() for level in head.levels}
        backbone.trim([level for level in backbone.out_specs if level in read][-1])
    merges = {name: build(node, allow=allow)(heads) for name, node in description.get("merges", {}).items()}
    return VisionModel(
        backbone,
        neck,
        heads,
        preprocess=build(description["preprocess"], allow=allow),
        loss_weights=description.get("loss_weights"),
        learn_loss_weights=description.get("learn_loss_weights", False),
        merges=merges,
    )


def backbone_weights(weights: Any) -> str | None:
    """The `weights` of a configuration as a backbone takes them: None for none, and for auto and those of a run, which
    are the whole model's (`visionkit.transfer`).
    """
    if isinstance(weights, Mapping) and "path" not in weights:
        raise ConfigError(
            "weights={…}: path is missing; give weights={path: FILE, mean: 0.5, std: 0.5}", code="value-missing"
        )
    path = weights["path"] if isinstance(weights, Mapping) else weights
    return None if path in ("none", "auto", None) or Path(str(path)).is_dir() else str(path)


def build_reader(data: Mapping[str, Any], split: str, *, allow: Sequence[str] | None = None) -> Reader:
    """Open one split, a role (train, val, test) or one of the source's own lists; of `data.sets` those that have it."""
    if data.get("sets"):
        image = {key: data[key] for key in IMAGE_KEYS if key in data}
        sets = {name: {**one, **image} for name, one in data["sets"].items()}
        own = {name: one for name, one in sets.items() if one["splits"].get(split, split) is not None}
        if not own:
            raise ConfigError(
                f"data.sets: none of {', '.join(data['sets'])} has a list for {split}", code="split-unknown"
            )
        readers = {name: _opened(one, split, allow) for name, one in own.items()}
        proportions = {name: share for name, share in data["proportions"].items() if name in own}
        mixture: Reader = build(data["reader"], allow=allow)(readers, proportions=proportions or None)
        return mixture
    return _opened(data, split, allow)


def _opened(data: Mapping[str, Any], split: str, allow: Sequence[str] | None) -> Reader:
    """Open one split of one set. Where other images than the usual are wanted, the first must be of that kind."""
    reader: Reader = build(data["reader"], allow=allow)(**reader_arguments(data, split))
    wanted = Decoding(data.get("channels", 3), data.get("bit_depth", 8))
    if wanted != Decoding() and len(reader):
        image = reader.read(0).image
        if image.shape[2] != wanted.channels or image.dtype != wanted.dtype:
            raise ConfigError(
                f"data.channels={wanted.channels}, data.bit_depth={wanted.bit_depth}: {type(reader).__name__} gives "
                f"images of {image.shape[2]} channels, {image.dtype}; leave the keys out, or choose another data=",
                code="channels-differ",
            )
    return reader


def build_metrics(
    model: VisionModel,
    *,
    voc_ap: bool = False,
    class_numbers: Sequence[str] | None = None,
    own: Mapping[str, Any] = MappingProxyType({}),
    allow: Sequence[str] | None = None,
) -> dict[str, Metric]:
    """A fresh metric for each head and merge, by the labels that it needs: it is judged on what it learns from.

    Args:
        model: with the heads and merges.
        voc_ap: those of boxes tell VOC's average precision, too.
        class_numbers: those that whole-image classes are judged by; None: the usual ones (`TopK`).
        own: by head or merge, a `_target_` in place of the usual metric; it is called with the names of the classes.
        allow: see `visionkit.targets.build`.

    Raises:
        ConfigError: `own` names neither a head nor a merge of the model, or an object that is no `Metric`.
        CheckpointError: a target of `own` is not allowed.
    """
    metrics: dict[str, Any] = {}
    for name, module in model.heads.items():
        head = cast(Head, module)
        if "masks" in head.needs:
            metrics[name] = CocoInstances(head.classes, voc=voc_ap)
        elif "boxes" in head.needs:
            metrics[name] = CocoDetection(head.classes, voc=voc_ap)
        elif "semantic" in head.needs:
            metrics[name] = SemanticScores(head.classes)
        elif "box" in head.needs:
            metrics[name] = LocalizationAccuracy(head.classes)
        else:
            several = bool(getattr(module, "multi_label", False))
            metrics[name] = TopK(head.classes, multi_label=several, numbers=class_numbers)
    metrics.update({name: merge.metric() for name, merge in model.merges.items()})
    for name, node in own.items():
        if name not in metrics:
            said = f"the model has no such head or merge{did_you_mean(name, metrics)}; it has {listed(list(metrics))}"
            raise ConfigError(f"metric.{name}: {said}", code="key-not-taken")
        metrics[name] = build({**node, "_partial_": True}, allow=allow)(model.classes[name])
        if not isinstance(metrics[name], Metric):
            lacks = [one for one in _METRIC if not hasattr(metrics[name], one)]
            raise ConfigError(
                f"metric.{name}={node['_target_']}: this is no metric, it lacks {listed(lacks)} "
                "(visionkit.interfaces.Metric)",
                code="target-unknown",
            )
    return metrics


def category_ids(model: VisionModel, reader: Reader) -> dict[str, list[int | str | None]]:
    """Per answer, the source's id of each of its classes; None for a class that the source lacks."""
    known = dict(zip(reader.semantic_classes, semantic_category_ids(reader), strict=True))
    known |= dict(zip(reader.classes, reader.category_ids, strict=True))
    return {name: [known.get(label) for label in classes] for name, classes in model.classes.items()}


def label_fields(nodes: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """The fields of `LABEL_FIELDS` that the heads described by `nodes` need."""
    return frozenset().union(*(getattr(locate(node["_target_"]), "needs", ()) for node in nodes))


def _in_channels(backbone: Mapping[str, Any], channels: int) -> dict[str, int]:
    """What a backbone is told of the images' channels: nothing where they are the usual 3, or it says so itself."""
    own = backbone.get("in_channels", 3 if channels == 3 else None)
    if own is None:
        if "in_channels" not in parameters(locate(backbone["_target_"])):
            name = backbone["_target_"].rpartition(".")[2]
            raise ConfigError(
                f"data.channels={channels}: {name} takes images of 3 channels alone; choose another backbone",
                code="channels-differ",
            )
        return {"in_channels": channels}
    if own != channels:
        raise ConfigError(
            f"model.backbone.in_channels={own} beside data.channels={channels}; leave the first out",
            code="channels-differ",
        )
    return {}


def _own_weights(weights: Mapping[str, float], heads: Sequence[str]) -> dict[str, float]:
    """The weights of the model's heads; of heads that it could have, a recipe may name others, too."""
    others = set(groups()["head"]) - set(heads)
    return {name: value for name, value in weights.items() if name.split("/")[0] not in others}


def _classes_of(node: Mapping[str, Any], reader: Reader) -> list[str]:
    own, needs = field_classes(reader), label_fields([node])
    field = "semantic" if "semantic" in needs else "boxes" if "boxes" in needs else "class_scores"
    return list(own[field])


def head_levels(partials: Iterable[Any]) -> list[str]:
    """The levels that heads read: they say it in their argument `levels`."""
    read = [inspect.signature(partial).parameters["levels"].default for partial in partials]
    return list(dict.fromkeys(level for levels in read for level in levels))
