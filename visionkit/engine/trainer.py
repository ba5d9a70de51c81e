"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from visionkit.engine.ema import EMA
from visionkit.engine.optim import Schedule
from visionkit.engine.tracking import Tracker
from visionkit.model import VisionModel
from visionkit.structures import Batch


class NonFiniteError(RuntimeError):
    """The loss or its gradient is not a number, more often than `engine.max_bad_steps` allows."""


@dataclass(kw_only=True)
class Trainer:
    """All that the loop works with; built by `visionkit.engine.run`.

    Attributes:
        model: on `device`, in its final memory format.
        optimizer: its groups' "lr" at creation is what the schedule's factor multiplies.
        batches: endless, from step `step` on.
        mix: mixes the images of a batch that is on the device, given its number from 0 over the run; None: no mixing.
        steps_per_epoch: optimizer steps.
        total_steps: the step at which training ends.
        accumulate: micro-batches in a step.
        clip_norm: largest norm of the gradient; 0: no clipping.
        precision: the dtype of autocast; float32 turns it off.
        save_steps: save in mid-epoch after so many steps; 0: at the end of an epoch only.
        log_steps: steps between two lines of metrics.jsonl.
        max_bad_steps: steps with a loss or gradient that is not finite that are passed over before the run stops.
        end_of_epoch: called with the trainer after each epoch; evaluates and saves.
        save: called with the trainer for a checkpoint in mid-epoch.
        step: optimizer steps behind us.
    """

    model: VisionModel
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    ema: EMA
    batches: Iterator[Batch]
    device: torch.device
    steps_per_epoch: int
    total_steps: int
    tracker: Tracker
    end_of_epoch: Callable[[Trainer], None]
    save: Callable[[Trainer], None]
    mix: Callable[[Batch, int], Batch] | None = None
    accumulate: int = 1
    clip_norm: float = 0.0
    precision: torch.dtype = torch.float32
    save_steps: int = 0
    log_steps: int = 50
    max_bad_steps: int = 0
    step: int = 0
    scaler: torch.amp.GradScaler = field(init=False)
    losses: _LossSums = field(init=False)

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        self.losses = _LossSums(self.device)
        self._guard = _FiniteGuard(self.model, self.optimizer, self.device, self.max_bad_steps)

    @property
    def epoch(self) -> int:
        """Whole epochs behind us."""
        return self.step // self.steps_per_epoch

    def train(self) -> None:
        """Run to `total_steps`.

        Raises:
            NonFiniteError: see `max_bad_steps`; the model's weights are those before the bad step.
        """
        self.model.train()
        while self.step < self.total_steps:
            # ------------------------------------------------------------------------------------------------ batches
            began = time.perf_counter()
            micro_batches = [next(self.batches) for _ in range(self.accumulate)]
            self.tracker.waited(time.perf_counter() - began)
            micro_batches = [batch.to(self.device) for batch in micro_batches]
            if self.mix is not None:
                first = self.step * self.accumulate
                micro_batches = [self.mix(batch, first + number) for number, batch in enumerate(micro_batches)]
            # Losses are divided by what the whole step holds, so that accumulating changes nothing.
            totals = _totals(micro_batches)

            # -------------------------------------------------------------------------------- forward, backward, step
            factor = self.schedule.factor(self.step)
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            losses: dict[str, Tensor] = {}
            self._guard.begin()
            for batch in micro_batches:
                with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
                    micro = self.model(batch.images, replace(batch.targets, totals=totals))
                self.scaler.scale(micro["total"]).backward()
                losses = {name: losses.get(name, 0.0) + value.detach() for name, value in micro.items()}
            self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm or float("inf"))
            image_ids = [image_id for batch in micro_batches for image_id in batch.image_ids]
            fine = self._guard.check(self.step + 1, losses["total"], norm, image_ids, scaled=self.scaler.is_enabled())
            if fine:
                self.scaler.step(self.optimizer)
                self.ema.update()
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            self.tracker.trained(sum(len(batch.images) for batch in micro_batches))
            self.losses.add(losses)

            # ----------------------------------------------------------------------------------- log, evaluate, save
            last = self.step == self.total_steps
            epoch_ends = self.step % self.steps_per_epoch == 0
            if self.step % self.log_steps == 0 or epoch_ends or last:
                self.tracker.log_step(self.step, self.losses.means(), lr=self.optimizer.param_groups[0]["lr"])
            if epoch_ends or last:
                self._guard.settle()
                self.tracker.training_pauses()
                self.end_of_epoch(self)
                self.model.train()
                self.tracker.training_resumes()
            elif self.save_steps and self.step % self.save_steps == 0:
                self._guard.settle()
                self.tracker.training_pauses()
                self.save(self)
                self.tracker.training_resumes()

    def state(self) -> dict[str, Any]:
        """What continues the run exactly, beside the weights: optimizer, scaler, random numbers, counts and sums."""
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random,
            "ema_updates": self.ema.updates,
            "bad_steps": self._guard.bad_steps,
            "losses": self.losses.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"]["cpu"])
        if self.device.type == "cuda" and "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"], self.device)
        self.ema.updates = state["ema_updates"]
        self._guard.bad_steps = state["bad_steps"]
        self.losses.load_state(state["losses"])


class _LossSums:
    """Running sums of the losses on their device, read only when they are logged. Steps not finite are left out."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.names: list[str] = []
        self.sums, self.steps = torch.zeros((), device=device), torch.zeros((), device=device)

    def add(self, losses: Mapping[str, Tensor]) -> None:
        values = torch.stack(list(losses.values()))
        finite = torch.isfinite(values).all()
        self.names = list(losses)
        self.sums = self.sums + torch.where(finite, values, 0.0)
        self.steps = self.steps + finite

    def means(self) -> dict[str, float]:
        """The means since the last call; nan without a finite step."""
        means = dict(zip(self.names, (self.sums / self.steps).tolist(), strict=True))
        self.sums, self.steps = torch.zeros_like(self.steps), torch.zeros_like(self.steps)
        return means

    def state(self) -> dict[str, Any]:
        return {"names": list(self.names), "sums": self.sums, "steps": self.steps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.names = list(state["names"])
        self.sums, self.steps = state["sums"].to(self.device), state["steps"].to(self.device)


class _FiniteGuard:
    """Keeps a step whose loss or gradient is not finite from being taken.

    On a GPU the optimizer's fused kernel is told on the device to skip it, and the flag is read one step later, so
    that nothing waits for it; elsewhere it is read at once. Where bad steps are passed over, the buffers are put back
    too: the statistics of a BatchNorm that once were not finite would never be so again.
    """

    def __init__(
        self, model: VisionModel, optimizer: torch.optim.Optimizer, device: torch.device, allowed: int
    ) -> None:
        self.optimizer, self.on_gpu, self.allowed = optimizer, device.type == "cuda", allowed
        self.buffers = list(model.buffers()) if allowed else []
        self.buffers_before: list[Tensor] = []
        self.bad_steps = 0
        self.pending: tuple[int, Tensor, Sequence[object], torch.cuda.Event] | None = None

    def begin(self) -> None:
        """Call before the step's first forward."""
        self.buffers_before = [buffer.clone() for buffer in self.buffers]

    def check(self, step: int, loss: Tensor, norm: Tensor, image_ids: Sequence[object], *, scaled: bool) -> bool:
        """Whether the step may be taken (on a GPU always: the kernel decides).

        With scaled float16 gradients only the loss is looked at: the scaler meets infinite gradients as a matter of
        course and passes over them by itself.
        """
        bad = ~torch.isfinite(loss.detach() if scaled else loss.detach() + norm)
        for buffer, before in zip(self.buffers, self.buffers_before, strict=True):
            buffer.copy_(torch.where(bad, before, buffer))
        if not self.on_gpu:
            if bool(bad):
                self._count(step, image_ids)
                return False
            return True
        if not scaled:
            self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
        self.settle()
        flag = bad.to("cpu", non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self.pending = (step, flag, image_ids, event)
        return True

    def settle(self) -> None:
        """Read the flag that is still out."""
        if self.pending is None:
            return
        step, flag, image_ids, event = self.pending
        self.pending = None
        event.synchronize()
        if bool(flag):
            self._count(step, image_ids)

    def _count(self, step: int, image_ids: Sequence[object]) -> None:
        self.bad_steps += 1
        if self.bad_steps > self.allowed:
            ids = ", ".join(str(image_id) for image_id in image_ids)
            raise NonFiniteError(
                f"step {step}: the loss or its gradient is not finite; the step was not taken. Lower optim.lr, or set "
                f"engine.precision=fp32. Images of the batch: {ids}"
            )


def _totals(batches: Sequence[Batch]) -> dict[str, Tensor]:
    counts = [batch.targets.counts() for batch in batches]
    return {name: torch.stack([count[name] for count in counts]).sum() for name in counts[0]}
