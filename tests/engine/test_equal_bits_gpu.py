"""A run on a GPU that was interrupted equals one that was not, where torch has deterministic kernels."""

from __future__ import annotations

import warnings

import pytest
import torch

EXACT = (
    "device=cuda", "engine.deterministic=true", "engine.precision=bf16", "engine.save_steps=3", "data.workers=1",
)  # fmt: skip
CASES = {
    "classify": ("task=classify", "augment.mixup={p: 0.5, until: 1}", "head.classification.dropout=0.5"),
    "localize": ("task=localize",),
    "detect": ("task=detect", "augment.mosaic.p=0.5"),
    "detect muon, one to one": ("task=detect", "optim=muon", "head.detection.one_to_one=true"),
    "semantic": ("task=semantic",),
    "instance": ("task=instance", "augment.copy_paste={p: 0.5, until: 0.6}"),
    "panoptic": ("task=panoptic",),
    "multitask": ("task=multitask", "heads=[classification,detection,semantic,instance]"),
    "mobilenet": ("task=detect", "backbone=mobilenet_v2"),
    "launched": ("task=detect", "engine.cuda_graphs=false"),
    "scaled float16": ("task=detect", "engine.precision=fp16"),
}
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def assert_resumes_to_the_bit(train, assert_equal_runs, *typed):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert train(*EXACT, *typed, "run_dir=whole") == 0
    lacking = {str(one.message).split(" ")[0] for one in warned if "does not have a deterministic" in str(one.message)}
    assert not lacking, lacking
    assert train(*EXACT, *typed, "run_dir=broken", "debug.fault=term@step5") == 0
    assert train(*EXACT, *typed, "resume=broken") == 0
    assert_equal_runs("whole", "broken")


@pytest.mark.parametrize("case", CASES)
def test_an_interrupted_run_on_a_gpu_equals_an_uninterrupted_one(case, train, runs, assert_equal_runs):
    assert_resumes_to_the_bit(train, assert_equal_runs, *CASES[case])


def test_so_does_one_whose_backbone_thaws(train, runs, finished, assert_equal_runs):
    """In its second epoch of seven steps each, when the network is recorded anew."""
    typed = ("task=classify", f"weights={finished}", "model.freeze=backbone", "model.unfreeze={all: 1}")
    assert_resumes_to_the_bit(train, assert_equal_runs, *typed)
