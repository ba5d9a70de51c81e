"""Trials of `visionkit doctor`: import what is needed, and compute a little with it.

They run in a process of their own. One that ends it (an illegal instruction, a broken driver) or never answers is told
by its name, and the others are tried again without it.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from visionkit.doctor_findings import Finding

_SECONDS = 240.0
_GIB = 1 << 30
_START = """
import sys
sys.path.append(sys.argv[1])
from visionkit.doctor_trials import try_out
try_out(sys.argv[2], sys.argv[3:])
"""


def trials(device: str = "auto", *, names: Sequence[str] = (), seconds: float = _SECONDS) -> Iterator[Finding]:
    """Try out, and yield what is found.

    names: of `TRIALS`; none: all. seconds: after which a process that runs some of them counts as stuck.
    """
    left = list(names or TRIALS)
    package = str(Path(__file__).resolve().parents[1])
    while left:
        asked = [sys.executable, "-P", "-c", _START, package, device, *left]
        try:
            done = subprocess.run(asked, capture_output=True, timeout=seconds)
            output, ended = done.stdout, _ended(done.returncode, done.stderr.decode(errors="replace"))
        except subprocess.TimeoutExpired as error:
            output, ended = error.stdout or b"", f"no answer within {seconds:.0f} s"
        for name, findings in _answers(output):
            left.remove(name)
            yield from findings
        if left:
            name = left.pop(0)
            yield Finding(name, "fault", f"the trial ends its process: {ended}", _MENDS[name])


def try_out(device: str, names: Sequence[str]) -> None:
    """Run trials in this process, and print a line of JSON for each."""
    for name in names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                findings = list(TRIALS[name](device))
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            findings = [Finding(name, "fault", f"{type(error).__name__}: {reason}", _MENDS[name])]
        print("\n" + json.dumps({"trial": name, "findings": [asdict(one) for one in findings]}), flush=True)


def _answers(output: bytes) -> Iterator[tuple[str, list[Finding]]]:
    for line in output.decode(errors="replace").splitlines():
        if line.startswith('{"trial": '):  # other lines are what packages print
            answer = json.loads(line)
            yield answer["trial"], [Finding(**one) for one in answer["findings"]]


def _ended(code: int, errors: str) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}, {(errors.strip().splitlines() or ['nothing said'])[-1]}"


# ------------------------------------------------------------------------------------------------------------- trials
def _torch(_: str) -> Iterator[Finding]:
    import torch

    makers = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    built = next((f"{name} {version}" for name, version in makers.items() if version), "the processor")
    told = f"torch {torch.__version__} imports, built for {built}, {torch.get_num_threads()} threads"
    card = shutil.which("nvidia-smi") is not None
    if card and torch.version.cuda is None:
        mend = "install torch for CUDA (https://pytorch.org/get-started/locally), or go on without the card"
        yield Finding("torch", "warning", f"{told}, though this machine has a driver for NVIDIA cards", mend)
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    if card and not usable:
        why = str(said[0].message).split("(Triggered")[0].strip() if said else "no card is visible to it"
        mend = "look at CUDA_VISIBLE_DEVICES; a new driver, or a torch built for an older CUDA, mends the rest"
        yield Finding("torch", "warning", f"{told}, but cannot use the card: {why}", mend)
    else:
        yield Finding("torch", "ok", told)


def _torchvision(_: str) -> Iterator[Finding]:
    import torch

    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]])
    version = metadata.version("torchvision")
    try:
        import torchvision

        kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist()
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        if "nms" not in str(error):
            raise
        said = f"torchvision {version} lacks its operators (torchvision::nms)"
        other = f"it was built for another torch than {torch.__version__}"
        yield Finding("torchvision", "fault", f"{said}: {other}", _MENDS["torchvision"])
        return
    if kept != [0]:
        raise ValueError(f"torchvision::nms keeps {kept} of two boxes, where [0] is right")
    yield Finding("torchvision", "ok", f"torchvision {version} imports, its operators work")


def _opencv(_: str) -> Iterator[Finding]:
    import cv2
    import numpy as np

    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    decoded: Any = cv2.imdecode(cv2.imencode(".png", image)[1], cv2.IMREAD_COLOR)
    if not np.array_equal(decoded, image):
        raise ValueError("an image is not what it was after writing and reading")
    yield Finding("opencv", "ok", f"cv2 {cv2.__version__} imports, writes and reads an image")


def _albumentations(_: str) -> Iterator[Finding]:
    import albumentations
    import numpy as np

    flip = albumentations.Compose([albumentations.HorizontalFlip(p=1)])
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    if not np.array_equal(flip(image=image)["image"], image[:, ::-1]):
        raise ValueError("a flipped image is not the image's mirror")
    yield Finding("albumentations", "ok", f"albumentations {albumentations.__version__} imports and flips an image")


def _pycocotools(_: str) -> Iterator[Finding]:
    import numpy as np
    from pycocotools import mask

    counted = int(mask.area(mask.encode(np.asfortranarray(np.ones((4, 5), np.uint8)))))
    if counted != 20:
        raise ValueError(f"a mask of 20 pixels has {counted}")
    yield Finding("pycocotools", "ok", "pycocotools imports and counts a mask")


def _configuration(_: str) -> Iterator[Finding]:
    from visionkit.config import compose

    cfg = compose("train", ["task=detect"])
    yield Finding("configuration", "ok", f"hydra composes task=detect: {len(cfg)} keys and groups")


def _devices(_: str) -> Iterator[Finding]:
    import torch

    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about: Any = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        with torch.cuda.device(number):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        told = f"{about.name}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free, capability {about.major}.{about.minor}"
        cudnn: Any = torch.backends.cudnn
        yield Finding(f"cuda:{number}", "ok", f"{told}, bf16 {'yes' if bf16 else 'no'}, cuDNN {cudnn.version()}")
    if torch.backends.mps.is_available():
        yield Finding("mps", "ok", "Apple's graphics processor")


def _step(device: str) -> Iterator[Finding]:
    """Train a small network for a step on the device, and compare with the processor's numbers."""
    from visionkit.engine.device import autocast_dtype, resolve_device

    chosen = resolve_device(device)
    begun = time.perf_counter()
    loss, norm = _small_step(str(chosen))
    seconds = time.perf_counter() - begun
    expected = (loss, norm) if chosen.type == "cpu" else _small_step("cpu")
    far = max(abs(one - other) / max(abs(other), 1e-6) for one, other in zip((loss, norm), expected, strict=True))
    if not far < 0.02:
        here, there = (f"loss {one:.6g} and gradient {other:.6g}" for one, other in ((loss, norm), expected))
        said = f"a step on {chosen} gives {here}, the processor {there}"
        yield Finding("training step", "fault", said, _MENDS["training step"])
    else:
        precision = str(autocast_dtype("auto", chosen)).removeprefix("torch.")
        said = f"forward and backward on {chosen} in {seconds:.2f} s; engine.precision=auto is {precision} there"
        yield Finding("training step", "ok", said)


def _small_step(device: str) -> tuple[float, float]:
    """The loss of a small network, equal everywhere but for rounding, and the norm of its gradient."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.SiLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    images = torch.randn(8, 3, 64, 64, generator=generator).to(device)
    labels = (torch.arange(8) % 4).to(device)
    loss: Any = nn.functional.cross_entropy(network.to(device)(images), labels)
    loss.backward()
    gradients = [parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None]
    return float(loss), float(torch.cat(gradients).norm())


TRIALS: Mapping[str, Callable[[str], Iterator[Finding]]] = MappingProxyType(
    {
        "torch": _torch,
        "torchvision": _torchvision,
        "opencv": _opencv,
        "albumentations": _albumentations,
        "pycocotools": _pycocotools,
        "configuration": _configuration,
        "devices": _devices,
        "training step": _step,
    }
)
_ANEW = "pip install --force-reinstall"
_PAIR = f"install both anew, from one place: {_ANEW} torch torchvision (https://pytorch.org/get-started/locally)"
_MENDS: Mapping[str, str] = {
    "torch": _PAIR,
    "torchvision": _PAIR,
    "opencv": "pip uninstall -y opencv-python opencv-contrib-python opencv-python-headless && "
    "pip install opencv-python-headless",
    "albumentations": f"{_ANEW} --no-deps albumentations==2.0.8",
    "pycocotools": f"{_ANEW} --no-deps pycocotools",
    "configuration": f'mend the packages first; then {_ANEW} "hydra-core>=1.3.8,<1.4" (Python 3.11 to 3.13 is needed)',
    "devices": "restart the machine, or install the driver of the card anew; device=cpu goes on without it",
    "training step": "choose another device (device=cpu), and look at the driver of this one",
}
