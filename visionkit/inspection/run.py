"""The run of tools/inspect_model.py: a model's table, its picture, and what it has learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from visionkit.build import backbone_weights, build_model, build_reader, describe_model
from visionkit.data.collate import padded_images
from visionkit.data.decode import decode
from visionkit.engine.checkpoint import load_model
from visionkit.engine.device import resolve_device
from visionkit.engine.run_data import choose_heads
from visionkit.errors import ConfigError, UserError, listed
from visionkit.inspection.evidence import class_evidence
from visionkit.inspection.parts import model_parts
from visionkit.inspection.table import Row, rows, text_table, total
from visionkit.inspection.trace import trace_model
from visionkit.model import VisionModel
from visionkit.report.architecture import plot_model
from visionkit.report.learned import plot_evidence, plot_filters, plot_maps
from visionkit.report.sheet import displayable
from visionkit.transfer import take_weights, told_of_weights

_NOTES = """\
stride and receptive field: in pixels of the image, as if it had no ends; all: all of the image
MACs: multiplications followed by an addition, in convolutions and matrix products
activation memory: of what the layers make of one image in float32; in-place changes and views make nothing"""
_Picture = tuple[str, Callable[[Path], Path]]
"""The name of a file and what writes it."""


def inspect_run(cfg: DictConfig) -> int:
    """Print the table of a model; draw its parts into `out`, and with `image` what it has learned; return 0.

    Args:
        cfg: checkpoint, or a training configuration; image_size, depth, out, image and device.

    Raises:
        UserError: something given cannot be; before anything is written.
    """
    out = _target(cfg.out, cfg.image)
    device = resolve_device(cfg.device)
    model, untrained = _model(cfg)
    image = None if cfg.image is None else decode(Path(cfg.image), model.preprocess.decoding)
    whole = trace_model(model, model.preprocess.canvas, model.preprocess.decoding.channels)
    sums = total(whole)
    print(text_table(rows(whole, cfg.depth), sums), _NOTES, sep="\n")
    if out is None:
        return 0
    parts = partial(plot_model, model_parts(model, _title(model, sums)))
    if image is None:
        _write([(out.name, parts)], out.parent, None)
    else:
        pictures = _learned(model.to(device), _seen(model, image, device))
        _write([("model.png", parts), *pictures], out, cfg.image)
    if untrained and image is not None:
        print(
            f"random weights: {listed(untrained)}; the pictures show what was learned with checkpoint=DIR or weights=…"
        )
    return 0


def _target(out: str | None, image: str | None) -> Path | None:
    """Check what is to be written, as far as that can be told from the names."""
    if out is None:
        if image is not None:
            raise ConfigError(f"image={image}: give out=DIR, the folder for its pictures", code="value-missing")
        return None
    path = Path(out)
    if image is not None and not Path(image).is_file():
        raise ConfigError(f"image={image}: no such file", code="source-missing")
    if image is None and path.suffix.lower() != ".png":
        raise ConfigError(
            f"out={out}: a file name that ends in .png is wanted; a folder needs image=FILE, too", code="output-unfit"
        )
    if image is None and path.is_dir():
        raise ConfigError(f"out={out}: is a folder; give the name of a file in it", code="output-unfit")
    if image is not None and (path.is_file() or path.suffix.lower() == ".png"):
        raise ConfigError(f"out={out}: a folder is wanted beside image=FILE, for several pictures", code="output-unfit")
    return path


def _model(cfg: DictConfig) -> tuple[VisionModel, list[str]]:
    """The model in eval mode, and the names of those of its parts that have random weights."""
    if "checkpoint" in cfg:
        model = load_model(cfg.checkpoint, tuple(cfg.allow))
        if cfg.image_size is not None:
            size = cfg.image_size
            model.preprocess.canvas = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        return model, []
    reader = build_reader(cfg.data, "train")
    choose_heads(cfg, reader)
    torch.manual_seed(cfg.seed)
    description = describe_model(cfg, reader)
    model = build_model(description, weights=backbone_weights(cfg.weights), allow=None)
    taken = take_weights(model, description, cfg.weights)
    for line in told_of_weights(taken, cfg.weights):
        print(line)
    kept = {fate.tensor for fate in taken.fates if fate.fate == "kept"}
    parts = {"backbone": model.backbone, "neck": model.neck, **model.heads}
    names = [name for name, part in parts.items() if part is not None and list(part.parameters())]
    prefixes = {name: f"heads.{name}." if name in model.heads else f"{name}." for name in names}
    return model.eval(), [name for name in names if not any(one.startswith(prefixes[name]) for one in kept)]


def _title(model: VisionModel, sums: Row) -> str:
    size = " × ".join(map(str, (model.preprocess.decoding.channels, *model.preprocess.canvas)))
    costs = f"{_short(sums.parameters)} parameters, {_short(sums.macs)} MACs"
    return f"{', '.join(model.heads)}: {costs} for an image of {size}"


def _short(count: int) -> str:
    """Three significant digits: 4.09 G."""
    for factor, sign in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= 0.9995 * factor:
            value = count / factor
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{sign}"
    return str(count)


@dataclass(frozen=True, eq=False)
class _Seen:
    """pixels: (H, W, C), the part of the canvas that holds image; images: (1, C, H', W'), the canvas."""

    pixels: np.ndarray
    images: Tensor


def _seen(model: VisionModel, image: np.ndarray, device: torch.device) -> _Seen:
    """An image as the network sees it."""
    fitted, _ = model.preprocess.fit(image)
    canvas = padded_images([fitted], model.preprocess.canvas, model.preprocess.fill)
    return _Seen(fitted, canvas.contiguous().to(device))


def _learned(model: VisionModel, seen: _Seen) -> list[_Picture]:
    """The pictures of what a model has learned, with all that they need computed."""
    size = (seen.pixels.shape[0], seen.pixels.shape[1])
    image = displayable(seen.pixels)
    pictures: list[_Picture] = []
    name, weights = _first_convolution(model.backbone, seen.images.shape[1])
    if weights is not None:
        pictures.append(("filters.png", partial(plot_filters, weights.detach().float().cpu().numpy(), name)))
    with torch.inference_mode():
        levels = {name: _on_image(maps, model, size) for name, maps in model.features(seen.images).items()}
    maps = {name: one for name, one in levels.items() if one.shape[1:] != (1, 1)}  # a single cell has no picture
    if maps:
        pictures.append(("maps.png", partial(plot_maps, image, maps)))
    for name, found in class_evidence(model, seen.images, size).items():
        if found:
            pictures.append((f"cam-{name}.png", partial(plot_evidence, image, found, model.classes[name], name)))
        else:
            print(f"{name}: nothing was found in the image, so there is no evidence to draw")
    return pictures


def _first_convolution(backbone: nn.Module, channels: int) -> tuple[str, Tensor | None]:
    """The name and weights of the first convolution over the image's channels; None where there is none."""
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == channels:
            return f"backbone.{name}", module.weight
    return "", None


def _on_image(maps: Tensor, model: VisionModel, size: tuple[int, int]) -> np.ndarray:
    """(C, h, w): the cells of (1, C, h, w) maps that hold image."""
    height, width = (
        -(-held * cells // side)
        for held, cells, side in zip(size, maps.shape[-2:], model.preprocess.canvas, strict=True)
    )
    cropped: np.ndarray = maps[0, :, :height, :width].float().cpu().numpy()
    return cropped


def _write(pictures: list[_Picture], folder: Path, image: str | None) -> None:
    """Write the pictures and say their names.

    Raises:
        UserError: the folder cannot be made, or a picture would overwrite the image; before any is written.
    """
    for name, _ in pictures:
        if image is not None and (folder / name).resolve() == Path(image).resolve():
            raise UserError(f"out={folder}: {name} would overwrite the image; give another folder", code="place-taken")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, draw in pictures:
            draw(folder / name)
    except OSError as error:
        raise UserError(
            f"out={folder}: cannot be written ({error.strerror}); give another place", code="not-writable"
        ) from error
    print(f"written: {', '.join(str(folder / name) for name, _ in pictures)}")
