"""What training a dense head must not do: wait for the device, or compile again and again."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from visionkit.backbones import CSP
from visionkit.engine.ema import EMA
from visionkit.engine.optim import Schedule, create_optimizer
from visionkit.engine.tracking import Tracker
from visionkit.engine.trainer import Trainer
from visionkit.heads import DenseDetection, DenseInstance
from visionkit.model import VisionModel
from visionkit.necks import PAFPN
from visionkit.preprocess import Preprocess
from visionkit.structures import Batch, Targets


def dense_model(side, instance=False):
    torch.manual_seed(0)
    backbone = CSP("nano", width=0.25)
    levels = ("p3", "p4", "p5", "pixels") if instance else ("p3", "p4", "p5")
    neck = PAFPN(backbone.out_specs, out_levels=levels, channels=32)
    head = (DenseInstance if instance else DenseDetection)(neck.out_specs, classes=["a", "b"], one_to_one=True)
    return VisionModel(backbone, neck, {"found": head}, preprocess=Preprocess(side))


def dense_batch(side, instance=False, count=2):
    """Two images, two objects and padding; with masks that fill the boxes."""
    boxes = torch.tensor([[4.0, 4, side / 2, side / 3], [side / 3, side / 3, side - 2, side - 2], [0, 0, 0, 0]])
    targets = {"boxes": boxes.repeat(count, 1, 1), "labels": torch.tensor([[0, 1, -1]] * count)}
    if instance:
        masks = torch.randint(0, 256, (2 * count + 1, side * side // 8), dtype=torch.uint8)
        row = torch.arange(2 * count).view(count, 2)
        targets |= {"masks": masks, "mask_row": torch.cat([row, torch.full((count, 1), -1)], 1)}
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    made = Targets(sizes=torch.tensor([[side, side]] * count), **targets)
    return Batch(images=images, targets=made, image_ids=tuple(range(count)))


def compilations(instance: bool) -> int:
    """How often network and loss are compiled for four canvases that come twice each; a break raises."""
    import torch._dynamo.testing

    model = dense_model(64, instance).train()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=False)
    for _ in range(2):
        for side in (64, 96, 128, 160):
            batch = dense_batch(side, instance)
            assert torch.isfinite(compiled(batch.images, batch.targets)["total"])
    return int(counter.frame_count)


@pytest.mark.slow
@pytest.mark.parametrize("instance", [False, True])
def test_losses_compile_without_a_break_and_once_a_canvas(instance):
    # In a process of its own: the compiler's threads break those that later tests fork.
    code = f"import runpy; print(runpy.run_path({__file__!r})['compilations']({instance}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "4", done.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("instance", [False, True])
@pytest.mark.parametrize("graphs", [False, True])
def test_ten_steps_never_wait_for_the_device(tmp_path, graphs, instance, optimizer):
    """Of forward, assignment, loss, backward, clipping, optimizer and EMA."""
    device, side, steps = torch.device("cuda"), 128, 12
    model = dense_model(side, instance).to(device)
    batches = [dense_batch(side, instance).pin_memory() for _ in range(steps)]

    def sent():
        for number, batch in enumerate(batches):
            if number == 2:  # kernels are chosen, and memory is asked for, at first
                torch.cuda.synchronize()
                torch.cuda.set_sync_debug_mode("error")
            yield batch

    trainer = Trainer(
        model=model,
        optimizer=create_optimizer(optimizer, model, lr=0.001, weight_decay=0.05),
        schedule=Schedule("flat_cosine", total_steps=steps, warmup_steps=2, flat=1.0),
        ema=EMA(model, decay=0.5, warmup=0),
        batches=sent(),
        device=device,
        steps_per_epoch=100,
        total_steps=steps,
        tracker=Tracker(tmp_path, total_steps=steps, headline="x"),
        end_of_epoch=lambda trainer: None,
        save=lambda trainer: None,
        precision=torch.bfloat16,
        clip_norm=10.0,
        log_steps=1000,
        graphs=graphs,
    )
    log_step = trainer.tracker.log_step

    def logged(*arguments, **named):
        torch.cuda.set_sync_debug_mode("default")  # the last step is over; its line may wait
        log_step(*arguments, **named)

    trainer.tracker.log_step = logged
    means = trainer.losses.means

    def read():
        torch.cuda.set_sync_debug_mode("default")
        return means()

    trainer.losses.means = read
    try:
        trainer.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.step == steps
