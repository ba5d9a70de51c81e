"""The processes of a run, and what they do together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from visionkit.engine.interruption import Preempted
from visionkit.engine.watch import Ending, Watch
from visionkit.errors import RunError, UserError


@dataclass(frozen=True)
class Processes:
    """This process among those of the run. With one process nothing is sent, and every value comes back as it is.

    watch: of several processes, what tells them of each other's end.
    """

    rank: int = 0
    world: int = 1
    watch: Watch | None = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor, of one shape and dtype everywhere, over the processes; of all of them the same bits."""
        if self.world > 1:
            tensor = tensor.clone()
            self._come()
            distributed.all_reduce(tensor)
        return tensor

    def gathered(self, value: Any) -> list[Any]:
        """Every process's value, by rank, on every process. It is pickled."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        self._come()
        distributed.all_gather_object(values, value)
        return values

    def gathered_on_first(self, value: Any) -> list[Any]:
        """Every process's value, by rank, on the first; elsewhere nothing."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world if self.first else []
        self._come()
        distributed.gather_object(value, values if self.first else None)
        return values

    def told(self, value: Any) -> Any:
        """The first process's value, on every process."""
        if self.world == 1:
            return value
        values = [value]
        self._come()
        distributed.broadcast_object_list(values)
        return values[0]

    def share_parameters(self, module: nn.Module) -> None:
        """Give every process the first one's parameters."""
        if self.world > 1:
            self._come()
            for parameter in module.parameters():
                distributed.broadcast(parameter.detach(), 0)

    def take_mean_gradients(self, module: nn.Module, beside: Tensor) -> Tensor:
        """Put the mean over the processes into the gradient of each parameter that requires one, in one exchange.

        For gradients that come all at once; where they come one after the other, `exchanging` sends them meanwhile.

        Numbers `beside` them, (N,), travel along; their sum over the processes is returned.
        """
        if self.world == 1:
            return beside
        gradients = []
        for parameter in module.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(_as_stored(parameter.grad))
        flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), beside])
        self._come()
        distributed.all_reduce(flat)
        flat, beside = flat[: -len(beside)] / self.world, flat[-len(beside) :]
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [part.view_as(own) for part, own in zip(parts, gradients, strict=True)])
        return beside

    def share_buffers(self, module: nn.Module) -> None:
        """Give every process the first one's buffers: each has seen other images, and keeps statistics of its own.

        They are what a checkpoint holds, and no training step reads them: so sharing them leaves a run as it was.
        """
        if self.world > 1:
            self._come()
            for buffer in module.buffers():
                distributed.broadcast(buffer, 0)

    def exchanging(self, model: nn.Module) -> nn.Module:
        """The model as what also takes the mean of the processes' gradients in each backward.

        Of those parameters that require a gradient now; where others do later, it is to be made anew. Buffers are left
        alone (`share_buffers`). All processes call it together.
        """
        if self.world == 1:
            return model
        # torch 2.15 calls it forward_sync_buffers, and warns of the other name.
        known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        options: Any = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
        self._come()
        return nn.parallel.DistributedDataParallel(model, **options)

    def check(self) -> None:
        """Ask, between two pieces of work, whether all processes are still there.

        Raises:
            RunError, or UserError: another one failed, died or hangs.
        """
        if self.watch is not None and self.watch.ending is not None:
            raise self._ended(RunError(code="process-lost"))

    @contextmanager
    def as_one(self) -> Iterator[None]:
        """End together what is begun together: an error in one process ends all, and one of them says what it was.

        Raises:
            the error itself, on the first process; its like where another process had it, died or hangs; SystemExit
            where another one says it.
        """
        if self.watch is None:
            yield
            return
        try:
            yield
        except (Preempted, SystemExit):  # of all processes
            raise
        except BaseException as error:
            ended = error if error is self.watch.raised else self._ended(error)
            if ended is error:
                raise
            raise ended from error

    def tell_with(self, kept: Callable[[], str], last_words: Callable[[str], None]) -> None:
        """Have the end of all processes told with what is `kept`, and by `last_words` where nothing else can be done.

        kept: the end of a message: what is saved, and where.
        last_words: called with the message in the first process when it has to be ended from outside its work.
        """
        if self.watch is not None:
            self.watch.kept = kept
            self.watch.last_words = last_words if self.first else self.watch.last_words

    def _ended(self, error: BaseException) -> BaseException:
        """What the work is to end with, given what it met itself."""
        assert self.watch is not None
        ending = self.watch.ending
        if ending is None and _lost_connection(error):
            ending = self.watch.cause()
            if ending is None:
                error = RunError(f"the processes lost each other ({first_line(error)})", code="process-lost")
        result = self._own_end(self.watch, error) if ending is None else self._common_end(self.watch, ending)
        self.watch.raised = result
        return result

    def _own_end(self, watch: Watch, error: BaseException) -> BaseException:
        code = 2 if isinstance(error, UserError) else 130 if isinstance(error, KeyboardInterrupt) else 1
        message, fault = f"{_kind(error)}: {first_line(error)}", "unexpected"
        if isinstance(error, UserError | RunError):
            message, fault = str(error), error.code
        first_says_it = watch.fail(message, code, fault)
        if self.first:
            return error
        if first_says_it:
            return SystemExit(code)
        return (UserError if code == 2 else RunError)(f"process {self.rank}: {message}", code=fault)

    def _common_end(self, watch: Watch, ending: Ending) -> BaseException:
        watch.until_heard()
        if self.rank != ending.speaker:
            return SystemExit(ending.code)
        return (UserError if ending.code == 2 else RunError)(ending.message + watch.kept(), code=ending.fault)

    @contextmanager
    def together(self) -> Iterator[None]:
        """As `as_one`; and nobody leaves the block before all have come to its end."""
        with self.as_one():
            yield
            self.gathered(None)

    def _come(self) -> None:
        if self.watch is not None:
            self.watch.come()


ALONE = Processes()
"""A run of one process."""


def _as_stored(tensor: Tensor) -> Tensor:
    """The tensor with its dimensions in the order of its memory, so that it can be sent without being laid out anew."""
    last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.permute(0, 2, 3, 1) if last else tensor


def _lost_connection(error: BaseException) -> bool:
    """Whether an error is of a collective that another process did not come to, and not of this process's own work."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return next(iter(str(error).strip().splitlines()), "")


def _kind(error: BaseException) -> str:
    return type(error).__name__
