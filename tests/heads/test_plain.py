"""The classification head of a list of layers, against what the list says."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from visionkit.build import build_model
from visionkit.errors import ConfigError
from visionkit.heads import PlainClassification
from visionkit.structures import FeatureSpec, Geometry, Targets

SPECS = {"c2": FeatureSpec(6, 4), "c3": FeatureSpec(2, 8)}
END = ["flatten", {"dense": {"units": 4, "activation": "relu"}}, {"dropout": 0.5}, "dense", "softmax"]
SIGMOID = ["flatten", {"dense": {"activation": "sigmoid"}}]
CLASSES = ("a", "b", "c")


def head_of(layers=END, **options):
    torch.manual_seed(0)
    arguments = {"classes": CLASSES, "layers": layers, "map_size": (3, 5), "levels": ["c3"]} | options
    return PlainClassification(SPECS, **arguments)


def test_it_computes_what_the_list_says():
    head = head_of().eval()
    first, last = (module for module in head.modules() if isinstance(module, nn.Linear))
    assert (first.in_features, first.out_features, last.out_features) == (2 * 3 * 5, 4, 3)
    x = torch.randn(7, 2, 3, 5)
    logits = head({"c3": x}, torch.zeros(7, 2))
    assert torch.allclose(logits, last(first(x.flatten(1)).relu()))
    decoded = head.decode(logits.detach(), torch.zeros(7, 2))
    assert torch.allclose(decoded["scores"], logits.softmax(1))
    found = head.finish(decoded, [Geometry((9, 9), (24, 40), (1.0, 1.0))] * 7)
    assert [one.scores.shape for one in found] == [(3,)] * 7


def test_training_uses_logits_and_drops_out():
    head = head_of()
    x, scores = torch.randn(4, 2, 3, 5), torch.eye(3)[[0, 1, 2, 0]]
    targets = Targets(sizes=torch.full((4, 2), 24), class_scores=scores)
    torch.manual_seed(5)
    loss = head.loss({"c3": x}, targets)["cross_entropy"]
    torch.manual_seed(5)
    assert torch.equal(loss, nn.functional.cross_entropy(head({"c3": x}, targets.sizes), scores))
    assert not torch.equal(head({"c3": x}, targets.sizes), head.eval()({"c3": x}, targets.sizes))


def test_a_sigmoid_at_the_end_is_the_decoders_too():
    head = head_of(SIGMOID, multi_label=True).eval()
    x = torch.randn(2, 2, 3, 5)
    logits = head({"c3": x}, torch.zeros(2, 2))
    assert logits.min() < 0
    assert torch.equal(head.decode(logits, torch.zeros(2, 2))["scores"], logits.sigmoid())
    targets = Targets(sizes=torch.full((2, 2), 24), class_scores=torch.tensor([[1.0, 1, 0], [0, 0, 0]]))
    expected = nn.functional.binary_cross_entropy_with_logits(logits, targets.class_scores)
    assert torch.allclose(head.loss({"c3": x}, targets)["binary_cross_entropy"], expected)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "binary_cross_entropy"])
def test_a_softmax_at_the_end_takes_every_loss(loss):
    head = head_of(loss=loss)
    assert dict(head.default_loss_weights) == {loss: 1.0}
    assert torch.allclose(head.decode(torch.zeros(1, 3), torch.zeros(1, 2))["scores"], torch.full((1, 3), 1 / 3))


def test_batch_normalization_of_values():
    head = head_of(["flatten", "batchnorm", "dense", "softmax"]).train()
    (norm,) = (module for module in head.modules() if isinstance(module, nn.BatchNorm1d))
    assert norm.num_features == 30
    assert head({"c3": torch.randn(4, 2, 3, 5)}, torch.zeros(4, 2)).shape == (4, 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"layers": [{"conv": 8}, "pool", "flatten", {"dense": 7}, "softmax"]},
            "model.backbone.layers, layer 4 (dense), input 30 values: its 7 units cannot be the scores of 3 classes; "
            "leave units out of the last dense layer, or give 3",
        ),
        (
            {"layers": SIGMOID},
            "model.backbone.layers, layer 2 (dense), input 30 values: a sigmoid under a softmax cross-entropy "
            "(loss=cross_entropy); end the list in dense, softmax; or use loss=binary_cross_entropy",
        ),
        (
            {"layers": SIGMOID, "loss": "focal"},
            "model.backbone.layers, layer 2 (dense), input 30 values: a sigmoid under a softmax cross-entropy "
            "(loss=focal); end the list in dense, softmax; or use loss=binary_cross_entropy",
        ),
        (
            {"multi_label": True},
            "model.backbone.layers, layer 5 (softmax), input 3 values: it gives an image one class, and multi_label="
            "true gives it several; end the list in dense: {activation: sigmoid}",
        ),
        ({"levels": ["c2", "c3"]}, "PlainClassification reads one level, not ['c2', 'c3']; there are c2, c3"),
        ({"layers": [{"conv": 8}, "pool"]}, "model.backbone.layers: there is no flatten in it; add flatten, dense and "
         "softmax, or leave the head out"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(options, said):
    with pytest.raises(ConfigError) as caught:
        head_of(**options)
    assert str(caught.value) == said


def test_a_map_of_another_size_is_named():
    head = head_of()
    with pytest.raises(
        ValueError, match=r"c3 has 4 x 5 cells where 3 x 5 were built for; give canvases of about 24 x 40"
    ):
        head({"c3": torch.randn(1, 2, 4, 5)}, torch.zeros(1, 2))


def description(layers):
    plain = {"_target_": "visionkit.backbones.Plain", "layers": layers, "image_size": 24}
    head = {
        "_target_": "visionkit.heads.PlainClassification", "_partial_": True, "layers": layers, "map_size": [12, 12],
        "levels": ["c1"], "classes": list(CLASSES), "label_smoothing": 0.1,
    }  # fmt: skip
    preprocess = {"_target_": "visionkit.preprocess.Preprocess", "image_size": 24}
    return {"backbone": plain, "neck": None, "heads": {"classification": head}, "preprocess": preprocess}


def test_a_few_steps_teach_it(one_thread):
    torch.manual_seed(0)
    end = ["flatten", {"dense": {"units": 16, "activation": "tanh"}}, "dense", "softmax"]
    model = build_model(description([{"conv": {"filters": 8, "activation": "relu"}}, "pool", *end]), allow=())
    images = torch.randint(0, 256, (12, 3, 24, 24), dtype=torch.uint8)
    images[:, 0, :12] = torch.arange(12).remainder(3)[:, None, None].mul(100).to(torch.uint8)
    targets = Targets(sizes=torch.full((12, 2), 24), class_scores=torch.eye(3)[torch.arange(12) % 3])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    history = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(images, targets)["total"]
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert all(value.grad is not None and value.grad.any() for value in model.parameters())
    assert sum(history[-5:]) / 5 < 0.7 * history[0]


def test_a_description_that_went_through_json_builds_the_same_model():
    layers = [
        {"conv": {"filters": 8, "kernel": 4, "padding": "same"}},
        {"batchnorm": {"activation": "relu"}},
        "pool",
        *END,
    ]
    first = build_model(description(layers), allow=()).eval()
    second = build_model(json.loads(json.dumps(description(layers))), allow=()).eval()
    second.load_state_dict(first.state_dict())
    images = torch.randint(0, 256, (2, 3, 24, 24), dtype=torch.uint8)
    assert torch.equal(first.outputs(images)["classification"], second.outputs(images)["classification"])
