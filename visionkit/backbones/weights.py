"""State dicts from files into networks, with errors that say which tensor does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from visionkit.errors import CheckpointError, listed
from visionkit.plain_files import Unreadable
from visionkit.tensor_files import read_safetensors, read_saved


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict (.safetensors, or a file of torch.save opened without running code), floats as float32.

    Raises:
        CheckpointError: there is no such file, or it holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"weights={path}: there is no such file; give the path of a state dict, or weights=none",
            code="weights-missing",
        )
    try:
        state = read_safetensors(path) if path.suffix == ".safetensors" else read_saved(path)
    except Unreadable as error:
        raise CheckpointError(
            f"weights={path}: not a readable state dict ({error}); save it anew with "
            "torch.save(model.state_dict(), FILE), or as .safetensors",
            code="weights-unreadable",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"weights={path}: a dict of tensors is wanted; save model.state_dict()", code="weights-unreadable"
        )
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def load_weights(
    network: nn.Module,
    path: str | Path,
    *,
    may_miss: tuple[str, ...] = (),
    rename: Callable[[str], str] = str,
) -> None:
    """Load a state dict file into `network`, every tensor of which must be there and fit.

    Args:
        network: whose tensors are replaced in place.
        path: see `read_state_dict`.
        may_miss: prefixes of names that may lack or not fit (a classifier of other classes).
        rename: from a name in the file to the network's own name of that tensor.

    Raises:
        CheckpointError: naming the first tensors that lack, are too many, or have another shape.
    """
    own = network.state_dict()
    renamed = {rename(name): value for name, value in read_state_dict(path).items()}
    given = {name: value for name, value in renamed.items() if not name.startswith(may_miss)}
    # Files of old PyTorch versions lack BatchNorm's count of batches; nothing reads it.
    wanted = {name for name in own if not name.startswith(may_miss) and not name.endswith("num_batches_tracked")}
    lacking = sorted(wanted - set(given))
    unknown = sorted(set(given) - set(own))
    other = [f"{name} {tuple(given[name].shape)} for {tuple(own[name].shape)}" for name in sorted(wanted & set(given))
             if given[name].shape != own[name].shape]  # fmt: skip
    faults = {"lacks": lacking, "does not know": unknown, "has another shape": other}
    said = [f"{what}: {listed(names, 4)}" for what, names in faults.items() if names]
    if said:
        raise CheckpointError(
            f"weights={path} do not fit {type(network).__name__} ({'; '.join(said)})", code="weights-do-not-fit"
        )
    network.load_state_dict({**own, **given})
