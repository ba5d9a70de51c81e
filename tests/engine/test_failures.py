from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from visionkit.engine.failures import Circumstances, told_in_words
from visionkit.errors import RunError


def circumstances(run_folder: Path | None = None) -> Circumstances:
    return Circumstances(torch.device("cpu"), batch_size=16, canvas=(640, 512), workers=4, run_folder=run_folder)


LEVERS = "lower data.batch_size (engine.accumulate=2 keeps what a step sees) or image_size"


NO_MEMORY = f"out of memory on cpu with batches of 16 x 640 x 512 pixels; {LEVERS}"
BUS_ERROR = (
    "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit."
)
TOO_SMALL = "shared memory (/dev/shm) is too small for 4 processes that load batches of 16 x 640 x 512 pixels"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), NO_MEMORY),
        (MemoryError(), NO_MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), NO_MEMORY),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously"), NO_MEMORY),
        (RuntimeError("DataLoader worker (pid(s) 12, 13) exited unexpectedly"), "a process that loads data died; most"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "that loads data died (Killed); "),
        (RuntimeError("DataLoader timed out after 300 seconds"), "did not answer for engine.timeout seconds"),
        (RuntimeError(BUS_ERROR), TOO_SMALL),
        (OSError(28, "No space left on device: '/torch_12'"), TOO_SMALL),
    ],
)
def test_what_went_wrong_is_said_with_the_mend(error, said):
    with pytest.raises(RunError) as caught, told_in_words(circumstances()):
        raise error
    assert said in str(caught.value)
    assert caught.value.__cause__ is error
    assert "\n" not in str(caught.value)


def test_real_errors_of_torch_are_known():
    """The texts above are torch's own: where they change, this fails."""
    with pytest.raises(RunError, match="out of memory on cpu"), told_in_words(circumstances()):
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(RunError, match=r"raise data\.batch_size to 2 or more"), told_in_words(circumstances()):
        nn.BatchNorm2d(3)(torch.zeros(1, 3, 1, 1))


def test_the_checkpoint_to_go_on_from_is_named(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "step-7").mkdir(parents=True)
    (checkpoints / "last").symlink_to("step-7")
    with pytest.raises(RunError) as caught, told_in_words(circumstances(tmp_path)):
        raise MemoryError
    assert str(caught.value).endswith(f"; step-7 is saved, resume={tmp_path} goes on from it")


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught, told_in_words(circumstances()):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not isinstance(caught.value, RunError)
