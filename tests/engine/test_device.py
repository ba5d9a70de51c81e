from __future__ import annotations

import pytest
import torch

from visionkit.engine.device import resolve_device
from visionkit.errors import ConfigError


def test_auto_takes_an_accelerator_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cuda: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=mps: there)
        assert resolve_device("auto") == torch.device(expected)


def test_devices_are_taken_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("cuda:1") == resolve_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match=r"device=cuda:2: this machine has 2 cuda devices"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["cdua", "cuda:", "cuda:x", "cuda:-1", "gpu", "", "xla"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^device={name}: auto, cpu, cuda"):
        resolve_device(name)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="this machine has 0 cuda devices; device=auto"):
        resolve_device("cuda")
