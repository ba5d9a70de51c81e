"""The training loop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from visionkit.engine.distributed import ALONE, Processes
from visionkit.engine.ema import EMA
from visionkit.engine.faults import NO_FAULT, Fault
from visionkit.engine.freezing import Freezing
from visionkit.engine.graphs import TrainingGraphs
from visionkit.engine.interruption import Interruption, Preempted
from visionkit.engine.optim import Schedule
from visionkit.engine.tracking import Tracker
from visionkit.errors import RunError
from visionkit.model import VisionModel
from visionkit.structures import Batch


class NonFiniteError(RunError):
    """The loss or its gradient is not a number, more often than `engine.max_bad_steps` allows."""

    usual_code = "loss-not-finite"


@dataclass(kw_only=True)
class Trainer:
    """All that the loop works with; built by `visionkit.engine.training_run`.

    Attributes:
        model: on `device`, in its final memory format.
        optimizer: its groups' "lr" at creation is what the schedule's factor multiplies.
        batches: this process's, endless, from step `step` on.
        mix: mixes the images of a batch that is on the device, given its number from 0 over the run
            and all processes; None: no mixing.
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
        processes: those that train together, each on batches of its own.
        interruption: asked after each step whether the run is to end.
        fault: what is to go wrong, where somebody wants to see it (`debug.fault`).
        freezing: what of the backbone is held still, and until when; None: nothing.
        graphs: replay the network as a CUDA graph (`visionkit.engine.graphs`); then gradients come all at once, and
            are exchanged so.
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
    processes: Processes = ALONE
    interruption: Interruption = field(default_factory=Interruption)
    fault: Fault = NO_FAULT
    freezing: Freezing | None = None
    graphs: bool = False
    step: int = 0
    scaler: torch.amp.GradScaler = field(init=False)
    losses: _LossSums = field(init=False)

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        self.losses = _LossSums(self.device, self.processes)
        self._guard = _FiniteGuard(self.model, self.optimizer, self.device, self.max_bad_steps, self.processes)
        self._network: nn.Module | None = None

    @property
    def bad_steps(self) -> int:
        """Steps that were not taken, as far as is known."""
        return self._guard.bad_steps

    @property
    def epoch(self) -> int:
        """Whole epochs behind us."""
        return self.step // self.steps_per_epoch

    def train(self) -> None:
        """Run to `total_steps`.

        Raises:
            NonFiniteError: see `max_bad_steps`; the model's weights are those before the bad step.
            Preempted: the run was asked to end; a checkpoint of the last step is there.
        """
        self.model.train()
        while self.step < self.total_steps:
            micro_batches = self._fetched()
            losses = self._stepped(micro_batches)
            self.step += 1
            self.tracker.trained(sum(len(batch.images) for batch in micro_batches) * self.processes.world)
            self.losses.add(losses, self._guard.bad)

            last = self.step == self.total_steps
            epoch_ends = self.step % self.steps_per_epoch == 0
            if self.step % self.log_steps == 0 or epoch_ends or last:
                rate = max(group["lr"] for group in self.optimizer.param_groups)
                self.tracker.log_step(self.step, self.losses.means(), lr=rate)
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
            alone_asked = self.processes.world == 1 and self.interruption.reason is not None
            if (self._guard.asked_to_end or alone_asked) and not last:
                self._end_early()
        self.model.__dict__.pop("network", None)  # graphs: what comes after training wants their memory

    def _fetched(self) -> list[Batch]:
        """The next step's micro-batches, on the device and mixed."""
        began = time.perf_counter()
        self.processes.check()
        self.fault.before_step(self.step + 1, self.processes.rank)
        micro_batches = [next(self.batches) for _ in range(self.accumulate)]
        self.tracker.waited(time.perf_counter() - began)
        micro_batches = [batch.to(self.device) for batch in micro_batches]
        if self.mix is not None:
            first, world, rank = self.step * self.accumulate, self.processes.world, self.processes.rank
            micro_batches = [
                self.mix(batch, (first + number) * world + rank) for number, batch in enumerate(micro_batches)
            ]
        return micro_batches

    def _stepped(self, micro_batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Take one step of the optimizer, unless it is a bad one; the losses, detached."""
        # Losses are divided by what the whole step holds, so that accumulating, or more processes, change nothing.
        totals = _totals(micro_batches, self.processes)
        thawed = self.freezing is not None and self.freezing.apply(self.step / self.steps_per_epoch)
        if thawed or self._network is None:
            self._network = self._prepared()
        factor = self.schedule.factor(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        losses: dict[str, Tensor] = {}
        self._guard.begin()
        for number, batch in enumerate(micro_batches, 1):
            with self._no_sync(number < len(micro_batches)):
                with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
                    micro = self._network(batch.images, replace(batch.targets, totals=totals))
                micro = self.fault.on_losses(self.step + 1, micro)
                # What is taken is the mean of the processes' gradients; the totals make their sum what is wanted.
                self.scaler.scale(micro["total"] * self.processes.world).backward()  # type: ignore[no-untyped-call]
            losses = {name: losses.get(name, 0.0) + value.detach() for name, value in micro.items()}
        flags = self._guard.flags(losses["total"], asked=self.interruption.reason is not None)
        flags = self.processes.take_mean_gradients(self.model, flags) if self.graphs else self.processes.sum(flags)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm or float("inf"))
        image_ids = [image_id for batch in micro_batches for image_id in batch.image_ids]
        fine = self._guard.check(self.step + 1, flags, norm, image_ids, scaled=self.scaler.is_enabled())
        if fine:
            self.scaler.step(self.optimizer)
            self.ema.update()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return losses

    def _prepared(self) -> nn.Module:
        """What gives the losses, and, unless graphs do it, exchanges gradients while they come."""
        if not self.graphs:
            return self.processes.exchanging(self.model)
        # The instance's own attribute wins over the class's method.
        self.model.network = TrainingGraphs(self.model)  # type: ignore[method-assign]
        self.processes.share_parameters(self.model)
        return self.model

    def _end_early(self) -> None:
        self._guard.settle()
        self.save(self)
        reason = next(one for one in self.processes.gathered(self.interruption.reason) if one is not None)
        raise Preempted(reason)

    def _no_sync(self, more_follow: bool) -> contextlib.AbstractContextManager[None]:
        """Gradients are exchanged once a step, with its last micro-batch."""
        if more_follow and isinstance(self._network, nn.parallel.DistributedDataParallel):
            quiet: contextlib.AbstractContextManager[None] = self._network.no_sync()
            return quiet
        return contextlib.nullcontext()

    def state(self) -> dict[str, Any]:
        """What continues the run exactly, beside the weights: optimizer, scaler, random numbers, counts and sums.

        All processes call it together; random numbers are those of each, by rank.
        """
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": self.processes.gathered(random),
            "ema_updates": self.ema.updates,
            "bad_steps": self._guard.bad_steps,
            "losses": self.losses.state(),
        }

    def load_state(self, state: dict[str, Any], *, with_optimizer: bool = True) -> None:
        """Take up what `state` gave; rates, decays and the like stay those that the optimizer was made with.

        with_optimizer: False: the optimizer begins anew.
        """
        if with_optimizer:
            own = [{**group} for group in self.optimizer.param_groups]
            self.optimizer.load_state_dict(state["optimizer"])
            for group, values in zip(self.optimizer.param_groups, own, strict=True):
                group.update({name: value for name, value in values.items() if name not in ("params", "lr")})
        if state["scaler"]:  # none was needed in another precision
            self.scaler.load_state_dict(state["scaler"])
        if self.processes.rank < len(state["random"]):  # a run that goes on with more processes
            random = state["random"][self.processes.rank]
            torch.set_rng_state(random["cpu"])
            if self.device.type == "cuda" and "cuda" in random:
                torch.cuda.set_rng_state(random["cuda"], self.device)
        self.ema.updates = state["ema_updates"]
        self._guard.bad_steps = state["bad_steps"]
        self.losses.load_state(state["losses"])


class _LossSums:
    """Running sums of the losses on their device, read only when they are logged. Steps not finite are left out."""

    def __init__(self, device: torch.device, processes: Processes) -> None:
        self.device, self.processes = device, processes
        self.names: list[str] = []
        self.sums, self.steps = torch.zeros((), device=device), torch.zeros((), device=device)

    def add(self, losses: Mapping[str, Tensor], bad: Tensor) -> None:
        values = torch.stack(list(losses.values()))
        self.names = list(losses)
        self.sums = self.sums + torch.where(bad, 0.0, values)
        self.steps = self.steps + ~bad

    def means(self) -> dict[str, float]:
        """The means since the last call; nan without a finite step. All processes call it together: each has seen a
        part of every step, and a loss is the sum of its parts.
        """
        sums = self.processes.sum(self.sums)
        means = dict(zip(self.names, (sums / self.steps).tolist(), strict=True))
        self.sums, self.steps = torch.zeros_like(self.steps), torch.zeros_like(self.steps)
        return means

    def state(self) -> dict[str, Any]:
        return {"names": list(self.names), "sums": self.processes.gathered(self.sums.cpu()), "steps": self.steps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.names = list(state["names"])
        told = state["sums"] if isinstance(state["sums"], list) else [state["sums"]]  # once the first process's alone
        own = told[self.processes.rank :: self.processes.world]  # those of processes that are no more, too
        self.sums = sum((sums.to(self.device) for sums in own), torch.zeros((), device=self.device))
        self.steps = state["steps"].to(self.device)


class _FiniteGuard:
    """Keeps a step whose loss or gradient is not finite from being taken.

    On a GPU the optimizer's fused kernel is told on the device to skip it, and the flag is read one step later, so
    that nothing waits for it; elsewhere it is read at once. Where bad steps are passed over, the buffers are put back
    too: the statistics of a BatchNorm that once were not finite would never be so again.
    """

    def __init__(
        self,
        model: VisionModel,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        allowed: int,
        processes: Processes,
    ) -> None:
        self.optimizer, self.on_gpu, self.allowed = optimizer, device.type == "cuda", allowed
        self.processes = processes
        self.buffers = list(model.buffers()) if allowed else []
        self.buffers_before: list[Tensor] = []
        self.bad_steps = 0
        self.own = self.bad = torch.zeros((), dtype=torch.bool, device=device)
        self.asked_to_end = False
        self.pending: tuple[int, Tensor, Sequence[object], torch.cuda.Event] | None = None

    def begin(self) -> None:
        """Call before the step's first forward."""
        self.buffers_before = [buffer.clone() for buffer in self.buffers]

    def flags(self, loss: Tensor, *, asked: bool) -> Tensor:
        """(2,) float32 on the device: 1 where this process's loss is not finite, 1 where it is `asked` to end."""
        self.own = ~torch.isfinite(loss)
        return torch.stack([self.own, torch.full_like(self.own, asked)]).float()

    def check(self, step: int, flags: Tensor, norm: Tensor, image_ids: Sequence[object], *, scaled: bool) -> bool:
        """Whether the step may be taken (on a GPU always: the kernel decides).

        With scaled float16 gradients only the loss is looked at: the scaler meets infinite gradients as a matter of
        course and passes over them by itself.

        flags: the sum of all processes': what one finds, or is asked, holds for all.
        norm: of the gradient that all have.
        """
        bad, asked = flags > 0
        self.bad = bad = bad if scaled else bad | ~torch.isfinite(norm)
        flags = torch.stack([bad, asked, self.own])
        for buffer, before in zip(self.buffers, self.buffers_before, strict=True):
            buffer.copy_(torch.where(bad, before, buffer))
        if not self.on_gpu:
            return self._read(step, flags, image_ids)
        if not scaled:
            self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
        self.settle()
        copy = flags.to("cpu", non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self.pending = (step, copy, image_ids, event)
        return True

    def settle(self) -> None:
        """Read the flags that are still out."""
        if self.pending is None:
            return
        step, flags, image_ids, event = self.pending
        self.pending = None
        event.synchronize()
        self._read(step, flags, image_ids)

    def _read(self, step: int, flags: Tensor, image_ids: Sequence[object]) -> bool:
        """Take note, on the CPU, of [bad, asked to end, this process's own loss is bad]; whether all is fine."""
        bad, asked, own = flags.tolist()
        self.asked_to_end = self.asked_to_end or asked
        if bad:
            self.bad_steps += 1
            if self.bad_steps > self.allowed:
                raise self._too_many(step, own, image_ids)
        return not bad

    def _too_many(self, step: int, own: bool, image_ids: Sequence[object]) -> NonFiniteError:
        """All processes come here together. Where only the gradient is not finite, none knows whose images it is of."""
        told = self.processes.gathered((own, list(image_ids)))
        guilty = [rank for rank, (is_bad, _) in enumerate(told) if is_bad] or list(range(len(told)))
        ids = ", ".join(str(image_id) for rank in guilty for image_id in told[rank][1])
        whose = f" of process {', '.join(map(str, guilty))}" if len(told) > 1 else ""
        return NonFiniteError(
            f"step {step}: the loss or its gradient is not finite; the step was not taken. Lower optim.lr, or set "
            f"engine.precision=fp32. Images of the batch{whose}: {ids}"
        )


def _totals(batches: Sequence[Batch], processes: Processes) -> dict[str, Tensor]:
    counts = [batch.targets.counts() for batch in batches]
    names = list(counts[0])
    sums = torch.stack([torch.stack([count[name] for name in names]) for count in counts]).sum(dim=0)
    return dict(zip(names, processes.sum(sums), strict=True))
