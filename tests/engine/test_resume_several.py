"""Several processes that are interrupted together and go on."""

from __future__ import annotations

import pytest
import torch

from tests.engine.test_several_processes import status, train
from visionkit.engine.distributed import Processes
from visionkit.engine.trainer import _LossSums

TYPED = ("task=classify", "head.classification.dropout=0.5", "engine.epochs=1", "engine.log_steps=2")


def test_two_interrupted_processes_end_as_if_nothing_had_been(ranks, runs, assert_equal_runs):
    """Between two lines of metrics.jsonl: random numbers, and the losses summed so far, are of each process its own."""
    whole = ranks(2, train, *TYPED, "run_dir=whole")
    assert whole.wait() == [0, 0], whole.said()
    for typed in (("run_dir=broken", "debug.fault=term@step1"), ("resume=broken",)):
        broken = ranks(2, train, *TYPED, *typed)
        assert broken.wait() == [0, 0], broken.said()
        if len(typed) == 2:
            assert status("broken") == {"status": "preempted", "step": 1, "reason": "SIGTERM"}
    assert_equal_runs("whole", "broken")


@pytest.mark.parametrize(
    ("rank", "world", "saved", "own"),
    [
        (1, 2, [1.0, 2.0], 2.0),
        (0, 1, [1.0, 2.0], 3.0),  # that of a process that is no more, too
        (2, 3, [1.0, 2.0], 0.0),
        (0, 2, 1.0, 1.0),  # as it once was saved: the first one's alone
        (1, 2, 1.0, 0.0),
    ],
)
def test_each_process_takes_up_its_own_sum_of_losses(rank, world, saved, own):
    sums = _LossSums(torch.device("cpu"), Processes(rank, world))
    told = [torch.tensor([one]) for one in saved] if isinstance(saved, list) else torch.tensor([saved])
    sums.load_state({"names": ["total"], "sums": told, "steps": torch.tensor(1.0)})
    assert sums.sums.sum() == own
