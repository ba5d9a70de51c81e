"""COCO's numbers of a result file against a ground truth, by pycocotools or by faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from visionkit.errors import UserError
from visionkit.metrics.coco_input import validated
from visionkit.metrics.coco_numbers import NUMBERS, summary

_FASTER = ("faster", "faster-coco-eval")


def coco_evaluate(
    ground_truth: Mapping[str, Any] | str | Path,
    detections: Sequence[Mapping[str, Any]] | Mapping[str, Any] | str | Path,
    iou_type: Literal["bbox", "segm"] = "bbox",
    backend: Literal["pycocotools", "faster", "faster-coco-eval"] = "pycocotools",
) -> dict[str, float]:
    """COCO's twelve numbers (`NUMBERS`, 0 to 1) of a result file against a ground truth; the inputs stay as they are.

    Image and category ids may be numbers or strings. Annotation ids may be left out, or be 0, of which pycocotools by
    itself makes an object that is never found. A missing `iscrowd` is 0, a missing `area` that of the mask, else of the
    box; an `ignore` key is disregarded, as pycocotools does. A number without an object to be found is nan; without any
    detection all others are 0.

    Args:
        ground_truth: a COCO dict, or the path of a JSON file that holds one.
        detections: COCO result rows (bbox as [x, y, width, height] pixels, or segmentation), a dict with them under
            "annotations", or the path of a JSON file that holds either.
        iou_type: compare boxes or masks.
        backend: "faster" is the package faster-coco-eval, whose whole name will do as well. Its numbers differ from
            those of pycocotools in the 16th digit at most.

    Raises:
        DataError: the inputs cannot be scored; names the place as a JSON pointer, the value and the mend.
        UserError: the backend is unknown or not installed.
    """
    if iou_type not in ("bbox", "segm"):
        raise UserError(f"coco_evaluate: iou_type is 'bbox' or 'segm', not {iou_type!r}", code="choice-unknown")
    if backend not in ("pycocotools", *_FASTER):
        raise UserError(f"coco_evaluate: backend is 'pycocotools' or 'faster', not {backend!r}", code="choice-unknown")
    truth, results = validated(ground_truth, detections, iou_type)
    if not truth["annotations"]:
        return dict.fromkeys(NUMBERS, float("nan"))
    run = _pycocotools if backend == "pycocotools" else _faster
    precision, recall = run(truth, results, iou_type)
    return summary(precision[..., -1], recall)


def _pycocotools(truth: dict[str, Any], results: dict[str, Any], iou_type: str) -> tuple[np.ndarray, np.ndarray]:
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for content in (truth, results):
            side = COCO()
            side.dataset = content
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _faster(truth: dict[str, Any], results: dict[str, Any], iou_type: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        from faster_coco_eval import COCO as FasterCOCO  # noqa: N811
        from faster_coco_eval import COCOeval_faster
    except ImportError as error:
        mend = "pip install 'visionkit[fast-eval]', or take backend='pycocotools'"
        raise UserError(f"coco_evaluate: backend 'faster' is not installed: {mend}", code="package-missing") from error
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval_faster(FasterCOCO(truth), FasterCOCO(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])
