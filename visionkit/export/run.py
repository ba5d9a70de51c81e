"""The run of tools/export.py: a checkpoint becomes one file, compared on real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from visionkit.build import build_reader
from visionkit.config import evaluation_data
from visionkit.config_files import read_trained_config
from visionkit.data.bands import Native
from visionkit.data.decode import as_wanted, decode
from visionkit.data.readers import Shapes
from visionkit.engine.checkpoint import Checkpoint, load_model, open_checkpoint
from visionkit.errors import DataError, UserError
from visionkit.export.files import export_model
from visionkit.predict_files import find_images
from visionkit.structures import Decoding

_COMPARED = 8
"""Images; a graph that is wrong is wrong on the first."""


def export_run(cfg: Any) -> int:
    """Export `cfg.checkpoint`'s averaged weights to `cfg.out`; return 0.

    Args:
        cfg: checkpoint, format, out, image_size, precision, check and images, as in configs/export.yaml.

    Raises:
        UserError: something in what was given is wrong; before anything is written.
        RunError: the file would not predict what the checkpoint predicts; none is left.
    """
    checkpoint = open_checkpoint(cfg.checkpoint)
    model = load_model(checkpoint.folder, tuple(cfg.allow))
    images: dict[str, np.ndarray] = {}
    if cfg.check:
        images = _images(cfg, checkpoint, model.preprocess.decoding)
    size = cfg.image_size
    parity = export_model(
        model,
        cfg.out,
        images=images,
        format=cfg.format,
        precision=cfg.precision,
        image_size=size if size is None or isinstance(size, int) else tuple(size),
    )
    out = Path(cfg.out)
    print(f"compared with the checkpoint on {parity.told()}" if images else "not compared (check=false)")
    print(f"written: {out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0


def _images(cfg: Any, checkpoint: Checkpoint, decoding: Decoding) -> dict[str, np.ndarray]:
    """Those of a file, folder or pattern; else of the run's own validation list; else generated scenes; by name."""
    if cfg.images is not None:
        try:
            files = find_images(cfg.images, Path(cfg.out))
        except UserError as error:
            raise UserError(str(error).replace("source=", "images=", 1), code=error.code) from None
        return {name: decode(files[name], decoding) for name in _spread(list(files))}
    try:
        return _validation_images(checkpoint, tuple(cfg.allow))
    except (UserError, OSError) as error:
        reason = str(error).splitlines()[0]
        print(f"the run's own images cannot be read ({reason}): compared on generated scenes; images=DIR names others")
    scenes = Shapes("val", size=(240, 320), count=_COMPARED)
    try:
        drawn = [scenes.read(place).image for place in range(_COMPARED)]
        return {f"scene {place}": as_wanted("scene", Native(image), decoding) for place, image in enumerate(drawn)}
    except DataError:
        raise UserError(
            f"images: {decoding.channels} channels; name images of the model's kind, or check=false",
            code="channels-differ",
        ) from None


def _validation_images(checkpoint: Checkpoint, allow: tuple[str, ...]) -> dict[str, np.ndarray]:
    trained = read_trained_config(checkpoint.folder / "config.yaml")
    data = evaluation_data(trained.data, {}, allow=allow)
    role = "val" if data.splits.val is not None else "test" if data.splits.test is not None else "train"
    reader = build_reader(data, role, allow=allow)
    places = _spread(list(range(len(reader))))
    if not places:
        raise DataError(f"data.split={role}: holds no usable image", code="split-empty")
    return {str(reader.file_names[place]): reader.read(place).image for place in places}


def _spread(items: list[Any]) -> list[Any]:
    """At most `_COMPARED` of them, from the first to the last."""
    count = min(_COMPARED, len(items))
    return [items[round(i * (len(items) - 1) / max(1, count - 1))] for i in range(count)]
