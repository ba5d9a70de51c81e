"""The parts as a newcomer uses them: plain PyTorch, no configuration."""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from visionkit import Predictor, VisionModel
from visionkit.backbones import CSP
from visionkit.heads import DenseDetection, LinearClassification
from visionkit.necks import PAFPN
from visionkit.ops.boxes import iou
from visionkit.preprocess import Preprocess
from visionkit.structures import FeatureSpec, Targets


def batch(count=8):
    """Dark noise with one bright square each: (B, 3, 64, 64) float images, (B, 1, 4) boxes and (B, 1) labels."""
    images = torch.rand(count, 3, 64, 64) * 0.3
    corner = torch.randint(0, 40, (count, 2))
    side = torch.randint(12, 24, (count, 1))
    for image, (x, y), (length,) in zip(images, corner.tolist(), side.tolist(), strict=True):
        image[:, y : y + length, x : x + length] += 0.7
    boxes = torch.cat([corner, corner + side], 1).float()[:, None]
    return images, boxes, torch.zeros(count, 1, dtype=torch.long)


def train(batches):
    backbone = CSP("nano", width=0.25)
    neck = PAFPN(backbone.out_specs, out_levels=("p3", "p4", "p5"), channels=32)
    head = DenseDetection(neck.out_specs, classes=["square"])
    optimizer = torch.optim.AdamW([*backbone.parameters(), *neck.parameters(), *head.parameters()], lr=3e-3)
    for images, boxes, labels in batches:  # (B, 3, H, W); (B, M, 4) as x1 y1 x2 y2 in pixels; (B, M), −1 is padding
        targets = Targets(sizes=torch.tensor([images.shape[2:]] * len(images)), boxes=boxes, labels=labels)
        loss = sum(head.loss(neck(backbone(images)), targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return backbone, neck, head


def test_a_backbone_a_neck_and_a_head_train_in_ten_lines():
    torch.manual_seed(0)
    backbone, neck, head = (part.eval() for part in train(batch() for _ in range(90)))
    images, boxes, _ = batch(16)
    sizes = torch.tensor([[64, 64]] * 16)
    with torch.no_grad():
        found = head.decode(head(neck(backbone(images)), sizes), sizes)
    assert float(iou(found["boxes"][:, 0], boxes[:, 0]).mean()) > 0.7
    assert float(found["scores"][:, 0].mean()) > 0.3


def test_the_readme_shows_these_lines():
    readme = Path(__file__).parents[1] / "README.md"
    text = readme.read_text() if readme.exists() else ""
    if "```python" not in text:
        pytest.skip("no README with Python beside the tests")
    lines = inspect.getsource(train).splitlines()[1:-1]
    assert len(lines) == 10
    assert textwrap.dedent("\n".join(lines)) in text


def test_a_model_of_ones_own_parts_predicts_in_original_pixels():
    backbone = CSP("nano", width=0.25)
    neck = PAFPN(backbone.out_specs, out_levels=("p3", "p4", "p5"), channels=16)
    heads = {
        "boxes": DenseDetection(neck.out_specs, classes=["square"]),
        "kind": LinearClassification(backbone.out_specs, classes=["day", "night"]),
    }
    model = VisionModel(backbone, neck, heads, preprocess=Preprocess(64))
    found = Predictor(model, device="cpu").predict(np.zeros((100, 50, 3), np.uint8))
    assert [set(one) for one in found] == [{"boxes", "kind"}]
    assert float(found[0]["kind"].scores.sum()) == pytest.approx(1, abs=1e-5)
    assert found[0]["boxes"].boxes.max(initial=0) <= 100


def test_a_part_of_ones_own_needs_no_base_class():
    class Tiny(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3, 32, 1)
            self.out_specs = {"c5": FeatureSpec(8, 32)}

        def forward(self, images):
            return {"c5": self.conv(images)}

    backbone = Tiny()
    head = LinearClassification(backbone.out_specs, classes=["a", "b"])
    model = VisionModel(backbone, None, {"kind": head}, preprocess=Preprocess(64))
    targets = Targets(sizes=torch.tensor([[64, 64]] * 2), class_scores=torch.eye(2))
    losses = model(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), targets)
    losses["total"].backward()
    assert backbone.conv.bias.grad is not None
