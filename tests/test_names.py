"""The public names, which others rely on."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

SNAPSHOT = {
    "visionkit": ["Predictor", "VisionModel", "__version__", "load"],
    "visionkit.backbones": ["CSP", "Plain", "Timm", "Torchvision"],
    "visionkit.necks": ["FPN", "PAFPN"],
    "visionkit.heads": [
        "DeepLabV3Plus", "DenseDetection", "DenseInstance", "FCN", "LinearClassification", "ObjectLocalization",
        "PanopticMerge", "PlainClassification", "SemanticSegmentation",
    ],
    "visionkit.metrics": [
        "CocoDetection", "CocoInstances", "LocalizationAccuracy", "PanopticQuality", "SemanticScores", "TopK",
        "coco_evaluate", "voc_evaluate",
    ],
    "visionkit.data": [
        "Augment", "BatchMix", "Collate", "CollateEvaluation", "CopyPaste", "EpochSampler", "EvaluationSet", "MixUp",
        "Mosaic", "TorchvisionAugment", "TrainingSet", "batches", "class_map", "evaluation_loader", "field_classes",
        "fit_sample", "repeat_factors", "training_loader",
    ],
    "visionkit.data.readers": [
        "Auto", "Coco", "CocoPanoptic", "Csv", "Folder", "Joined", "Masks", "Mixture", "Shapes", "SingleObject", "Voc",
        "Yolo",
    ],
    "visionkit.inspection": [
        "Call", "Evidence", "Row", "class_evidence", "rows", "text_table", "total", "trace_model",
    ],
    "visionkit.report": ["Shown", "contact_sheet", "draw", "draw_all", "plot_curves", "spread", "write_report"],
}  # fmt: skip
"""A name may be added here. Taking one away, or renaming it, breaks code that is not ours to see."""


@pytest.mark.parametrize("name", SNAPSHOT)
def test_public_names_are_those_of_the_snapshot_and_are_there(name):
    module = importlib.import_module(name)
    assert sorted(module.__all__) == SNAPSHOT[name]
    assert all(getattr(module, member) is not None for member in module.__all__)


def test_what_is_called_by_name_takes_the_arguments_that_are_documented():
    from visionkit import Predictor, VisionModel, load
    from visionkit.metrics import coco_evaluate

    def arguments(function):
        return list(inspect.signature(function).parameters)

    assert arguments(load)[:2] == ["checkpoint", "device"]
    assert inspect.signature(load).parameters["device"].default == "auto"
    assert arguments(Predictor)[:2] == ["model", "device"]
    assert inspect.signature(Predictor).parameters["device"].default == "auto"
    assert arguments(Predictor.predict)[0] == "self"
    assert arguments(Predictor.features)[1:4] == ["images", "level", "pooled"]
    assert arguments(VisionModel.outputs)[:2] == ["self", "images"]
    assert arguments(coco_evaluate) == ["ground_truth", "detections", "iou_type", "backend"]
    defaults = {name: one.default for name, one in inspect.signature(coco_evaluate).parameters.items()}
    assert (defaults["iou_type"], defaults["backend"]) == ("bbox", "pycocotools")


def test_the_keys_of_coco_evaluate():
    from visionkit.metrics import coco_evaluate

    truth = {
        "images": [{"id": 1, "width": 10, "height": 10}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}],
    }
    found = coco_evaluate(truth, [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.5}])
    names = "AP AP50 AP75 AP_small AP_medium AP_large AR1 AR10 AR100 AR_small AR_medium AR_large"
    assert list(found) == names.split()


def test_importing_visionkit_is_cheap():
    code = "import visionkit, sys; print(sorted({'torch', 'albumentations', 'cv2', 'hydra'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_that_is_not_there_is_an_attribute_error():
    import visionkit

    with pytest.raises(AttributeError, match="module 'visionkit' has no attribute 'Predicter'"):
        _ = visionkit.Predicter
    assert set(visionkit.__all__) <= set(dir(visionkit))
