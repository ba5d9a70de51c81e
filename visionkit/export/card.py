"""What travels beside an exported graph: preprocessing, class names, thresholds, how each head's answers are made."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import visionkit
from visionkit.errors import ConfigError, UserError, printable
from visionkit.finishing import READS, Finishing
from visionkit.heads.panoptic import PanopticMerge
from visionkit.interfaces import Head, Merge
from visionkit.model import VisionModel
from visionkit.preprocess import CROP_SHARE, Preprocess
from visionkit.structures import LABEL_FIELDS

SCHEMA = 1
KEY = "visionkit"
"""Under which the text stands in the metadata of an ONNX file; in a .pt2 it is the extra file visionkit.json."""
MOST_BYTES = 16 << 20
_LONGEST_NAME = 1000
_MOST_CLASSES = 100_000
_MOST_ANSWERS = 64
_LARGEST_SIDE = 16_384
_MOST_CHANNELS = 1024
_THRESHOLDS = ("score_threshold", "most")
_SUPPRESSION = ("candidates", "iou_threshold")
_MERGE_ARGUMENTS = ("score_threshold", "overlap", "stuff_area")


class Unfit(ValueError):
    """A text is no card; the message is the reason alone."""


@dataclass(frozen=True)
class ExportedHead:
    """What of a head remains: the names of its classes, and how its decoded tensors become predictions.

    Attributes:
        classes: in the order of its labels and scores.
        needs: the fields of `Labels` that its metric reads.
        finishing: see `Finishing`.
        multi_label: of a classification, whether an image may have several classes.
        thresholds: by which the graph chooses boxes, told for whoever reads the file.
    """

    classes: tuple[str, ...]
    needs: frozenset[str]
    finishing: Finishing
    multi_label: bool = False
    thresholds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """Attributes:
    preprocess: the arguments of `Preprocess`.
    heads: by name.
    merges: by name, the arguments of `PanopticMerge`.
    precision: of the graph's weights, "fp32" or "fp16".
    """

    preprocess: Mapping[str, Any]
    heads: Mapping[str, ExportedHead]
    merges: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    precision: str = "fp32"

    def build_preprocess(self) -> Preprocess:
        """The preprocessing of the model that was exported."""
        return Preprocess(**self.preprocess)

    def build_merges(self) -> dict[str, Merge]:
        """The merges of the model that was exported."""
        heads = cast("Mapping[str, Head]", self.heads)
        return {name: cast(Merge, PanopticMerge(heads, **arguments)) for name, arguments in self.merges.items()}

    def text(self) -> str:
        """As JSON."""
        heads = {
            name: {
                "classes": list(head.classes),
                "kind": head.finishing.kind,
                "outputs": [f"{name}.{key}" for key in READS[head.finishing.kind]],
                "stride": head.finishing.stride,
                "keep_scores": head.finishing.keep_scores,
                "needs": sorted(head.needs),
                "multi_label": head.multi_label,
                "thresholds": dict(head.thresholds),
            }
            for name, head in self.heads.items()
        }
        told = {
            "schema": SCHEMA,
            "visionkit": visionkit.__version__,
            "precision": self.precision,
            "preprocess": {**self.preprocess, "crop_share": CROP_SHARE},
            "heads": heads,
            "merges": {name: {"kind": "panoptic", **arguments} for name, arguments in self.merges.items()},
        }
        return json.dumps(told, ensure_ascii=False)


def card_of(model: VisionModel, precision: str = "fp32") -> Card:
    """Describe a model.

    Raises:
        ConfigError: a head or merge of one's own, of which nobody here knows how its predictions are made.
    """
    preprocess = model.preprocess
    heads = {}
    for name, head in model.named_heads():
        finishing = getattr(head, "finishing", None)
        if not isinstance(finishing, Finishing):
            mend = "give the class an attribute `finishing` (visionkit.finishing.Finishing)"
            raise ConfigError(
                f"head '{name}': {type(head).__name__} cannot be exported; {mend}", code="export-unsupported"
            )
        boxes = getattr(head, "detection", head)
        told = (*_THRESHOLDS, *(_SUPPRESSION if getattr(boxes, "nms", True) else ()))
        heads[name] = ExportedHead(
            tuple(head.classes),
            frozenset(head.needs),
            finishing,
            bool(getattr(head, "multi_label", False)),
            {key: getattr(boxes, key) for key in told if hasattr(boxes, key)},
        )
    merges: dict[str, dict[str, Any]] = {}
    for name, merge in model.merges.items():
        if not isinstance(merge, PanopticMerge):
            raise ConfigError(
                f"merge '{name}': {type(merge).__name__} cannot be exported; leave it out: merges=[]",
                code="export-unsupported",
            )
        semantic, instance = merge.reads
        merges[name] = {"semantic": semantic, "instance": instance}
        merges[name] |= {key: getattr(merge, key) for key in _MERGE_ARGUMENTS}
    values = {
        "image_size": list(preprocess.canvas),
        "policy": preprocess.policy,
        "mean": preprocess.mean.flatten().tolist(),
        "std": preprocess.std.flatten().tolist(),
        "fill": preprocess.fill,
        "bit_depth": preprocess.decoding.bit_depth,
    }
    return Card(values, heads, merges, precision)


def read_card(text: str) -> Card:
    """Read what `Card.text` wrote, or somebody else, who may mean harm.

    Raises:
        Unfit: it is no such text, or was written by a later version.
    """
    if len(text) > MOST_BYTES:
        raise Unfit(f"its description has more than {MOST_BYTES >> 20} MiB")
    try:
        told = json.loads(text)
        if not isinstance(told, dict) or told.get("schema") != SCHEMA:
            shown = printable(str(told.get("schema") if isinstance(told, dict) else told))[:50]
            raise Unfit(f"schema {shown} is not known (this version knows {SCHEMA}); update visionkit")
        card = Card(
            _preprocess(told["preprocess"]),
            {_name(name): _head(one) for name, one in _mapping(told["heads"], _MOST_ANSWERS).items()},
            {_name(name): _merge(one) for name, one in _mapping(told["merges"], _MOST_ANSWERS).items()},
            _one_of(told["precision"], ("fp32", "fp16")),
        )
        card.build_preprocess()
        if not card.heads or set(card.heads) & set(card.build_merges()):
            raise Unfit("it names no head, or one name twice")
    except Unfit:
        raise
    except KeyError as fault:
        raise Unfit(f"{printable(str(fault.args[0]))} is missing") from None
    except RecursionError:
        raise Unfit("its description is nested too deep") from None
    except UserError as fault:
        raise Unfit(printable(str(fault))) from None
    except (ValueError, TypeError, AttributeError) as fault:
        raise Unfit(printable(f"its description cannot be read: {str(fault)[:200]}")) from None
    return card


def _preprocess(told: Any) -> dict[str, Any]:
    told = _mapping(told)
    sides = [_number(side, 1, _LARGEST_SIDE) for side in _sequence(told["image_size"], 2)]
    depth = told["bit_depth"]
    if len(sides) != 2 or told["crop_share"] != CROP_SHARE:
        raise Unfit("image_size or crop_share is none that this version knows")
    return {
        "image_size": [int(side) for side in sides],
        "policy": _one_of(told["policy"], ("letterbox", "resize_crop")),
        "mean": [_number(value, -1e9, 1e9) for value in _sequence(told["mean"], _MOST_CHANNELS)],
        "std": [_number(value, 1e-9, 1e9) for value in _sequence(told["std"], _MOST_CHANNELS)],
        "fill": int(_number(told["fill"], 0, 255)),
        "bit_depth": depth if depth in (8, 16) and not isinstance(depth, bool) else _one_of(depth, ("float",)),
    }


def _head(told: Any) -> ExportedHead:
    told = _mapping(told)
    classes = tuple(_name(one) for one in _sequence(told["classes"], _MOST_CLASSES))
    if not classes:
        raise Unfit("a head has no classes")
    finishing = Finishing(
        _one_of(told["kind"], tuple(READS)), int(_number(told["stride"], 1, 1024)), _yes_or_no(told["keep_scores"])
    )
    if finishing.kind == "semantic" and len(classes) > 255:
        raise Unfit("a semantic head has at most 255 classes")
    needs = frozenset(_one_of(one, LABEL_FIELDS) for one in _sequence(told["needs"], len(LABEL_FIELDS)))
    thresholds = {_name(key): _number(value, 0, 1e9) for key, value in _mapping(told["thresholds"]).items()}
    return ExportedHead(classes, needs, finishing, _yes_or_no(told["multi_label"]), thresholds)


def _merge(told: Any) -> dict[str, Any]:
    told = _mapping(told)
    _one_of(told["kind"], ("panoptic",))
    names = {key: _name(told[key]) for key in ("semantic", "instance")}
    return names | {key: _number(told[key], 0, 1) for key in _MERGE_ARGUMENTS}


def _mapping(value: Any, most: int = 1000) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > most:
        raise Unfit(f"a mapping of at most {most} values is wanted, not {_shown(value)}")
    return value


def _sequence(value: Any, most: int) -> Sequence[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise Unfit(f"a list of at most {most} values is wanted, not {_shown(value)}")
    return value


def _number(value: Any, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise Unfit(f"a number from {least:g} to {most:g} is wanted, not {_shown(value)}")
    if not math.isfinite(value):
        raise Unfit("a number is not finite")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME:
        raise Unfit(f"a name of 1 to {_LONGEST_NAME} characters is wanted, not {_shown(value)}")
    return value


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Unfit(f"true or false is wanted, not {_shown(value)}")
    return value


def _one_of(value: Any, known: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in known:
        raise Unfit(f"one of {', '.join(known)} is wanted, not {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return printable(str(value)[:50])
