"""From image file to pixels, in one place and by one policy, because decoders disagree silently.

The policy:

- The result is (H, W, C) uint8, RGB; grey images and palettes are expanded to RGB.
- EXIF orientation is applied, to the pixels and to the size alike. (A PNG's counts if it stands before the pixels.)
- Alpha, and a palette's or a key colour's transparency, is composited over white, as on a page.
- 16-bit samples keep their high byte (65535 → 255; no stretching to the image's own range); 32-bit ones are refused.
- CMYK and the other colour spaces go through Pillow's conversion; embedded colour profiles are not applied.
- Of several frames the first counts.
- A file that ends too early is refused, never filled up with grey.
- An image of more pixels than `PIL.Image.MAX_IMAGE_PIXELS` is refused.

Every fault is a `DataError` that names the file.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from visionkit.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"})
"""The file names, by their lower-case ending, that count as images where a folder is searched."""

_MEND = "save it again as JPEG or PNG, or take it out of the data set"
_JPEG = ("JPEG", "MPO")
_END_OF_JPEG = b"\xff\xd9"
_TAIL = 64


def decode(path: Path, *, channels: int = 3) -> np.ndarray:
    """Return the image as (H, W, channels) uint8, upright; RGB for 3 channels, ITU-R 601 luma for 1.

    Raises:
        DataError: the file is missing, empty, damaged, too large or of a kind outside the policy above.
    """
    if channels not in (1, 3):
        raise ValueError(f"decode: channels must be 1 or 3, not {channels}")
    data = _read(path)
    _check_end(path, io.BytesIO(data))
    with _opened(path, io.BytesIO(data)) as image:
        orientation = _orientation(image)
        # OpenCV gives the same pixels as Pillow for plain JPEGs, in a half to three quarters of the time.
        plain = image.format in _JPEG and image.mode in ("L", "RGB")
        pixels = _decode_jpeg(path, data) if plain else _decode_with_pillow(path, image)
    pixels = np.ascontiguousarray(_upright(pixels, orientation))
    return pixels if channels == 3 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) as `decode` will give them, read from the file's header alone."""
    with _file(path) as file, _opened(path, file) as image:
        return _upright_size(image)


def check_file(path: Path) -> tuple[int, int]:
    """Check without decoding that the file is a whole image, and return its (height, width) after EXIF rotation.

    Found are: no file, an empty file, something else than an image, a size over the limit, a bad header, and the
    missing end of a JPEG, PNG or WebP file. Damage between header and end shows at decoding only.
    """
    with _file(path) as file:
        _check_end(path, file)
        with _opened(path, file) as image:
            return _upright_size(image)


# --------------------------------------------------------------------------------------------------- opening a file
def _file(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; restore it or take it out of the data set") from None
    except OSError as fault:
        raise DataError(f"{path}: cannot be opened ({fault.strerror}); check the path and its permissions") from None


def _read(path: Path) -> bytes:
    with _file(path) as file:
        return file.read()


def _opened(path: Path, file: BinaryIO) -> Image.Image:
    """Open the header with Pillow; the pixels are not read yet."""
    if not file.read(1):
        raise DataError(f"{path}: the file is empty; {_MEND}")
    file.seek(0)
    try:
        image = Image.open(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{path}: {_too_large()}") from None
    except Exception as fault:  # a damaged header can make a decoder raise anything
        known = isinstance(fault, UnidentifiedImageError)
        reason = "not an image" if known else f"not an image that can be read ({fault})"
        raise DataError(f"{path}: {reason}; {_MEND}") from None
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise DataError(f"{path}: {image.width} x {image.height}, {_too_large()}")
    return image


def _too_large() -> str:
    limit = Image.MAX_IMAGE_PIXELS
    return f"more than {limit} pixels; cut it into tiles, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file"


# ------------------------------------------------------------------------------------------------------ completeness
def _check_end(path: Path, file: BinaryIO) -> None:
    if not _is_complete(file):
        raise DataError(f"{path}: the file ends too early (a broken copy or download); {_MEND}")


def _is_complete(file: BinaryIO) -> bool:
    """Whether the end of a JPEG, PNG or WebP is there; True for any other content. Leaves the file at its start."""
    start = file.read(12)
    length = file.seek(0, io.SEEK_END)
    file.seek(max(0, length - _TAIL))
    tail = file.read()
    file.seek(0)
    if start[:2] == b"\xff\xd8":
        return _END_OF_JPEG in tail or _jpeg_is_complete(_all(file))
    if start[:4] == b"\x89PNG":
        return b"IEND" in tail or b"IEND" in _all(file)
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return length >= 8 + int.from_bytes(start[4:8], "little")
    return True


def _all(file: BinaryIO) -> bytes:
    data = file.read()
    file.seek(0)
    return data


def _jpeg_is_complete(data: bytes) -> bool:
    """Whether an end marker follows the first scan. Cameras append data of their own, so it need not be the end."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        if data[position + 1] == 0xFF:  # fill byte
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position + 1] == 0xDA:  # start of scan: from here on 0xFFD9 is the end marker
            return data.find(_END_OF_JPEG, position + 2 + length) >= 0
        position += 2 + length
    return False


# -------------------------------------------------------------------------------------------------------- orientation
def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8. Must be asked before the pixels are loaded."""
    if image.format == "TIFF":  # Pillow turns these by itself, pixels and size
        return 1
    try:
        # PngImageFile.getexif would decode all pixels to look for a chunk behind them.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data says nothing about the pixels
        return 1
    return value if value in range(1, 9) else 1


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turned = _orientation(image) >= 5
    return (image.width, image.height) if turned else (image.height, image.width)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


# ------------------------------------------------------------------------------------------------------------- pixels
def _decode_jpeg(path: Path, data: bytes) -> np.ndarray:
    # Orientation is ours to apply, so that size and pixels cannot disagree.
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise DataError(f"{path}: a damaged JPEG file; {_MEND}")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)


def _decode_with_pillow(path: Path, image: Image.Image) -> np.ndarray:
    try:
        image.load()
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if image.mode in ("I", "F"):
            raise DataError(f"{path}: 32-bit samples have no known range; save it with 8 or 16 bits")
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            white = Image.new("RGBA", layer.size, "white")
            image = Image.alpha_composite(white, layer)
        return np.array(image.convert("RGB"))  # a copy, since Pillow's own memory is read-only
    except DataError:
        raise
    except Exception as fault:  # a damaged file can make a decoder raise anything
        raise DataError(f"{path}: cannot be decoded ({fault}); {_MEND}") from None
