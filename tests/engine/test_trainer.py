from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from visionkit.engine.ema import EMA
from visionkit.engine.optim import Schedule, create_optimizer
from visionkit.engine.tracking import Tracker
from visionkit.engine.trainer import NonFiniteError, Trainer
from visionkit.heads import LinearClassification
from visionkit.model import VisionModel
from visionkit.preprocess import Preprocess
from visionkit.structures import Batch, FeatureSpec, Targets

CLASSES = ("a", "b", "c")


class Convolution(nn.Module):
    """A backbone without norms: what a step does to it depends on nothing but the sum of the losses."""

    def __init__(self):
        super().__init__()
        self.out_specs = {"c5": FeatureSpec(4, 2)}
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, images):
        return {"c5": self.conv(images).relu()}


def images_and_scores(count: int, unknown: tuple[int, ...] = ()):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    scores = torch.eye(3)[torch.arange(count) % 3]
    known = torch.tensor([i not in unknown for i in range(count)])
    return images, torch.where(known[:, None], scores, -1.0), known


def batches(size: int, count: int = 4, unknown: tuple[int, ...] = ()):
    """The same `count` images again and again, `size` at a time."""
    images, scores, known = images_and_scores(count, unknown)
    while True:
        for first in range(0, count, size):
            rows = slice(first, first + size)
            sizes = torch.full((size, 2), 8)
            targets = Targets(sizes=sizes, known={"class_scores": known[rows]}, class_scores=scores[rows])
            yield Batch(images=images[rows], targets=targets, image_ids=tuple(range(first, first + size)))


@pytest.fixture
def trainer(tmp_path):
    def make(*, size=4, unknown=(), optimizer="sgd", lr=0.1, total_steps=6, **more):
        torch.manual_seed(0)
        backbone = Convolution()
        head = LinearClassification(backbone.out_specs, classes=CLASSES, dropout=0.0)
        model = VisionModel(backbone, None, {"classification": head}, preprocess=Preprocess(8))
        made = Trainer(
            model=model,
            optimizer=create_optimizer(optimizer, model, lr=lr, weight_decay=0.0),
            schedule=Schedule("flat_cosine", total_steps=total_steps, warmup_steps=2, flat=1.0),
            ema=EMA(model, decay=0.5, warmup=0),
            batches=batches(size, unknown=unknown),
            device=torch.device("cpu"),
            steps_per_epoch=3,
            total_steps=total_steps,
            tracker=Tracker(tmp_path, total_steps=total_steps, headline="x"),
            end_of_epoch=lambda trainer: trainer.calls.append(("epoch", trainer.step)),
            save=lambda trainer: trainer.calls.append(("save", trainer.step)),
            **more,
        )
        made.calls = []
        return made

    return make


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_accumulating_changes_nothing(trainer):
    """Of two micro-batches one knows a single class: the mean is over the step's images, not over each batch's."""
    whole, parts = trainer(size=4, unknown=(1,)), trainer(size=2, unknown=(1,), accumulate=2)
    whole.train()
    parts.train()
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-5, atol=1e-6)
    assert (whole.tracker.metrics.read_text()) != ""
    start = weights(trainer())
    assert not torch.equal(weights(parts)["backbone.conv.weight"], start["backbone.conv.weight"])


def test_a_step_by_hand(trainer):
    """SGD's first step is the rate of the warm-up times the gradient, clipped to its norm."""
    for clip_norm in (0.0, 0.01):
        made = trainer(total_steps=1, lr=0.5, clip_norm=clip_norm)
        made.schedule = Schedule("cosine", total_steps=100, warmup_steps=10)
        before = weights(made)
        made.optimizer.param_groups[0]["momentum"] = made.optimizer.param_groups[1]["momentum"] = 0.0
        for group in made.optimizer.param_groups:
            group["nesterov"] = False
        batch = next(batches(4))
        made.model(batch.images, batch.targets)["total"].backward()
        gradients = {name: parameter.grad.clone() for name, parameter in made.model.named_parameters()}
        made.model.zero_grad()
        norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
        assert norm > 0.01
        factor = min(1.0, clip_norm / norm) if clip_norm else 1.0
        made.train()
        for name, parameter in made.model.named_parameters():
            expected = before[name] - 0.5 * 0.1 * factor * gradients[name]
            torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-7)


def test_the_average_follows_each_step(trainer):
    made = trainer(total_steps=2)
    expected = made.model.heads["classification"].linear.weight.detach().clone()
    seen = []
    made.tracker.trained = lambda images: seen.append(made.model.heads["classification"].linear.weight.detach().clone())
    made.train()
    for value in seen:
        expected = (expected + value) / 2
    torch.testing.assert_close(made.ema.model.heads["classification"].linear.weight, expected)


def test_who_is_called_when(trainer):
    made = trainer(total_steps=8, save_steps=2)
    made.train()
    assert made.calls == [("save", 2), ("epoch", 3), ("save", 4), ("epoch", 6), ("epoch", 8)]
    assert (made.step, made.epoch) == (8, 2)


def test_the_model_trains_again_after_an_evaluation(trainer):
    made = trainer()
    modes = []
    made.end_of_epoch = lambda trainer: trainer.model.eval()
    made.model.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    made.train()
    assert modes == [True] * 6


def test_logged_losses_are_means_since_the_last_line(trainer):
    one, other = trainer(log_steps=1), trainer(log_steps=2)
    for made in (one, other):
        made.lines = []
        made.tracker.log_step = lambda step, losses, lr, made=made: made.lines.append((step, losses["total"], lr))
        made.train()
    single = [loss for _, loss, _ in one.lines]
    assert [step for step, _, _ in other.lines] == [2, 3, 4, 6]
    means = [(single[0] + single[1]) / 2, single[2], single[3], (single[4] + single[5]) / 2]
    assert [loss for _, loss, _ in other.lines] == pytest.approx(means, rel=1e-6)
    assert [lr for _, _, lr in one.lines] == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert single[-1] < single[0]


def spoil(trainer, step: int, where: str) -> None:
    """Make the loss of one step, or its gradient alone, not finite."""
    loss = trainer.model.heads["classification"].loss

    def spoilt(features, targets):
        losses = loss(features, targets)
        if trainer.step == step - 1:
            if where == "loss":
                return {name: value * torch.nan for name, value in losses.items()}
            for value in losses.values():
                value.register_hook(lambda gradient: gradient * torch.inf)
        return losses

    trainer.model.heads["classification"].loss = spoilt


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_that_is_not_finite_is_not_taken(trainer, where, accumulate):
    made, reference = (trainer(optimizer="adamw", size=2, accumulate=accumulate, log_steps=1) for _ in range(2))
    spoil(made, 3, where)
    reference.total_steps = 2
    reference.train()
    with pytest.raises(
        NonFiniteError, match="^step 3: .*Images of the batch: " + ("0, 1$", "0, 1, 2, 3$")[accumulate - 1]
    ):
        made.train()
    torch.testing.assert_close(weights(made), weights(reference), rtol=0, atol=0)
    torch.testing.assert_close(made.ema.model.state_dict(), reference.ema.model.state_dict(), rtol=0, atol=0)
    assert made.step == 2
    assert made.calls == []


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_bad_steps_are_counted_over_the_whole_run(trainer, precision):
    """float16 keeps a scaler, which must go on after a step that was not taken."""
    made = trainer(max_bad_steps=1, total_steps=8, precision=precision)
    spoil(made, 2, "loss")
    lines = []
    made.tracker.log_step = lambda step, losses, lr: lines.append((step, losses["total"]))
    made.train()
    assert made.step == 8
    assert made.ema.updates == 7
    assert [step for step, _ in lines] == [3, 6, 8]
    assert all(math.isfinite(loss) for _, loss in lines), "means are over the steps that were taken"
    assert all(value.isfinite().all() for value in weights(made).values())
    again = trainer(max_bad_steps=1, total_steps=8, precision=precision)
    again.load_state(made.state())
    spoil(again, 5, "loss")
    with pytest.raises(NonFiniteError, match="step 5"):
        again.train()


def test_buffers_of_a_bad_step_are_put_back(trainer):
    """The backbone's BatchNorm has taken in the images before the loss is known."""
    for allowed in (1, 0):
        made = trainer(max_bad_steps=allowed, total_steps=2)
        made.model.backbone.norm = nn.BatchNorm2d(3)
        forward = made.model.backbone.forward
        made.model.backbone.forward = lambda images, made=made, forward=forward: forward(
            made.model.backbone.norm(images)
        )
        made._guard.__init__(made.model, made.optimizer, made.device, allowed, made.processes)
        normalise = made.model.preprocess.normalise
        made.model.preprocess.normalise = lambda images, made=made, normalise=normalise: (
            normalise(images) * (torch.nan if made.step == 1 else 1.0)
        )
        if allowed:
            made.train()
            norm = made.model.backbone.norm
            assert norm.running_mean.isfinite().all()
            assert norm.num_batches_tracked.item() == 1
        else:
            with pytest.raises(NonFiniteError):
                made.train()


def test_a_state_continues_exactly(trainer):
    """Saved after step 2, between two logged lines: the mean of the next line is over the steps before it, too."""
    whole, resumed = (trainer(optimizer="adamw", size=2, log_steps=4, save_steps=2) for _ in range(2))
    kept = {}

    def save(trainer):
        if trainer.step == 2:
            states = (trainer.model.state_dict(), trainer.ema.model.state_dict(), trainer.state())
            kept["states"] = copy.deepcopy(states)

    whole.save = save
    lines = {}
    for made in (whole, resumed):
        lines[id(made)] = []
        made.tracker.log_step = lambda step, losses, lr, made=made: lines[id(made)].append((step, losses, lr))
    whole.train()
    model, average, state = kept["states"]
    resumed.model.load_state_dict(model)
    resumed.ema.model.load_state_dict(average)
    resumed.load_state(state)
    resumed.step = 2
    resumed.train()
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)
    torch.testing.assert_close(resumed.ema.model.state_dict(), whole.ema.model.state_dict(), rtol=0, atol=0)
    assert lines[id(resumed)] == lines[id(whole)]
    assert resumed.ema.updates == whole.ema.updates == 6


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_on_a_gpu_a_bad_step_is_not_taken_either(trainer, optimizer):
    made = trainer(optimizer=optimizer)
    made.model.cuda()
    made = Trainer(**{**vars_of(made), "device": torch.device("cuda"), "max_bad_steps": 1, "ema": EMA(made.model),
                      "optimizer": create_optimizer(optimizer, made.model, lr=0.1, weight_decay=0.0)})  # fmt: skip
    made.calls = []
    spoil(made, 3, "loss")
    before = {}
    check = made._guard.check

    def checked(step, *args, **more):
        before[step] = weights(made)
        return check(step, *args, **more)

    made._guard.check = checked
    made.train()
    torch.testing.assert_close(before[3], before[4], rtol=0, atol=0)
    assert not torch.equal(before[4]["backbone.conv.weight"], before[5]["backbone.conv.weight"])
    assert made._guard.bad_steps == 1


def vars_of(trainer) -> dict:
    given = ("model", "schedule", "batches", "steps_per_epoch", "total_steps", "tracker", "end_of_epoch", "save")
    return {name: getattr(trainer, name) for name in given}
