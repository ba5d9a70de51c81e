"""From image file to pixels, in one place and by one policy, because decoders disagree silently.

The policy, for the usual images of 3 channels and 8 bits (`Decoding`'s default):

- The result is (H, W, 3) uint8, RGB; grey images and palettes are expanded to RGB.
- EXIF orientation is applied, to the pixels and to the size alike. (A PNG's counts if it stands before the pixels.)
- Alpha, and a palette's or a key colour's transparency, is composited over white, as on a page.
- 16-bit samples keep their high byte (65535 → 255; no stretching to the image's own range); floating-point and 32-bit
  ones are refused.
- CMYK and the other colour spaces go through Pillow's conversion; embedded colour profiles are not applied.
- Of several frames or pages the first counts.
- The content decides what a file is, whatever its name ends in. Formats that are programs (EPS) or documents are no
  images.
- A file that ends too early is refused, never filled up with grey.
- An image of more pixels than `PIL.Image.MAX_IMAGE_PIXELS` is refused before memory is taken; so is one whose header
  promises more than the file can hold, or says another size than its pixels have.

Other channels and depths (`data.channels`, `data.bit_depth`):

- 1 channel is ITU-R 601 luma of the RGB that 3 channels would give.
- For 2, 4 and more channels nothing is made up or left out: the file holds as many, as a NumPy file (.npy) of
  (H, W, C), as a TIFF of C bands or of C grey pages, or as an image with alpha (grey and alpha; RGBA), which then stays
  as it is.
- With 16 bits 8-bit samples become value * 257 (255 → 65535). Floating-point ones are refused.
- With "float" floating-point samples stay as they are, in their own units, as float32, and must be finite; 8- and
  16-bit ones become 0..1.

Plain JPEGs are OpenCV's to decode: the same pixels as Pillow's and torchvision's, on the 640 x 480 photographs of
coco128 in 2.7 ms against 3.7 and 3.1 ms (mean of the set, best of three rounds, one core of a 2-core Xeon, OpenCV 5.0,
Pillow 13.0, torchvision 0.29, 2026-11-22). Where asked for, they are decoded at 1/2, 1/4 or 1/8 of their size.

Every fault is a `DataError` that names the file.
"""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from visionkit.data.bands import (
    MEND,
    Native,
    check_pixels,
    is_numpy,
    is_tiff,
    numpy_shape,
    pillow_pixels,
    read_numpy,
    read_tiff,
    tiff_pages,
    too_large,
)
from visionkit.data.tiff_parts import DEFLATED_AT_MOST
from visionkit.errors import DataError
from visionkit.plain_files import check_regular
from visionkit.structures import Decoding

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif", ".npy"})
"""The file names, by their lower-case ending, that count as images where a folder is searched."""

_FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF", "DIB", "TGA", "JPEG2000"]
_FORMATS += ["AVIF"] if find_spec("PIL.AvifImagePlugin") else []
_JPEG = ("JPEG", "MPO")
_END_OF_JPEG = b"\xff\xd9"
_TAIL = 64
_BITS_A_BLOCK = 2
"""At least one for the mean of each 8 x 8 pixels and one for the end of the block, of each component."""
_NO_RANGE = "32-bit samples have no known range; save it with 8 or 16 bits, or give data.bit_depth=float"
_COLOUR_RGB: int | None = getattr(cv2, "IMREAD_COLOR_RGB", None)
"""Saves the reordering; OpenCV has it from 4.11 on."""
_COLOUR = cv2.IMREAD_COLOR if _COLOUR_RGB is None else _COLOUR_RGB
_REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}


USUAL = Decoding()


def decode(path: Path, decoding: Decoding = USUAL, *, least: tuple[int, int] | None = None) -> np.ndarray:
    """Return the image as (H, W, channels) of `decoding.dtype`, upright.

    Args:
        path: the file.
        decoding: channels and depth.
        least: a plain JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as it keeps this (height, width); its
            sides are then ceil(side / 2, 4 or 8). None: at full size.

    Raises:
        DataError: the file is missing, empty, damaged, too large or outside the policy above.
    """
    data = _read(path)
    _check_end(path, io.BytesIO(data))
    if is_numpy(data):
        return as_wanted(path, read_numpy(path, data), decoding)
    usual = decoding.bit_depth == 8 and decoding.channels in (1, 3)
    if is_tiff(data):
        pages = tiff_pages(path, io.BytesIO(data))
        if not usual or pages[0].is_beyond_pillow:
            return as_wanted(path, read_tiff(path, data, pages, decoding.channels), decoding)
    with _opened(path, io.BytesIO(data)) as image:
        orientation, size = _orientation(image), (image.height, image.width)
        if orientation >= 5 and decoding.recorded == size != size[::-1]:
            orientation = 1
        # OpenCV gives the same pixels as Pillow for plain JPEGs, in three quarters of the time.
        if image.format in _JPEG and image.mode in ("L", "RGB"):
            factor = _factor(size if orientation < 5 else size[::-1], least) if least is not None else 1
            pixels = _decode_jpeg(path, data, size, factor)
        elif usual:
            pixels = _decode_with_pillow(path, image)
        else:
            return as_wanted(path, _native(path, data, image, orientation), decoding)
    pixels = np.ascontiguousarray(_upright(pixels, orientation))
    return pixels if decoding == USUAL else as_wanted(path, Native(pixels), decoding)


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) as `decode` will give them, read from the file's header alone."""
    with _file(path) as file:
        return _size(path, file)


def stored_size(path: Path) -> tuple[int, int]:
    """Return (height, width) before EXIF orientation turns the image; of a TIFF, which is always turned, after it."""
    with _file(path) as file:
        return _size(path, file, upright=False)


def check_file(path: Path) -> tuple[int, int]:
    """Check without decoding that the file is a whole image, and return its (height, width) after EXIF rotation.

    Found are: no file, an empty file, something else than an image, a size over the limit, a bad header, and the
    missing end of a JPEG, PNG, WebP or NumPy file. Damage between header and end shows at decoding only.
    """
    with _file(path) as file:
        _check_end(path, file)
        return _size(path, file)


def _size(path: Path, file: BinaryIO, *, upright: bool = True) -> tuple[int, int]:
    start = file.read(8)
    file.seek(0)
    if is_numpy(start):
        (height, width, _), _ = numpy_shape(path, file)
        return height, width
    if is_tiff(start):
        page = tiff_pages(path, file)[0]
        return page.size[::-1] if page.number(274, 1) in range(5, 9) else page.size
    with _opened(path, file) as image:
        return _upright_size(image) if upright else (image.height, image.width)


# --------------------------------------------------------------------------------------------------- opening a file
def _file(path: Path) -> BinaryIO:
    try:
        check_regular(path)
        return path.open("rb")
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; restore it or take it out of the data set", code="image-missing"
        ) from None
    except OSError as fault:
        raise DataError(
            f"{path}: cannot be opened ({fault.strerror}); check the path and its permissions", code="image-unreadable"
        ) from None


def _read(path: Path) -> bytes:
    with _file(path) as file:
        return file.read()


def _opened(path: Path, file: BinaryIO) -> Image.Image:
    """Open the header with Pillow; the pixels are not read yet."""
    if not file.read(1):
        raise DataError(f"{path}: the file is empty; {MEND}", code="image-unreadable")
    file.seek(0)
    try:
        image = Image.open(file, formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{path}: {too_large()}", code="image-too-large") from None
    except Exception as fault:  # a damaged header can make a decoder raise anything
        known = isinstance(fault, UnidentifiedImageError)
        reason = "not an image" if known else f"not an image that can be read ({fault})"
        raise DataError(f"{path}: {reason}; {MEND}", code="image-unreadable") from None
    check_pixels(path, image.height, image.width)
    _check_promise(path, file, image)
    return image


def _check_promise(path: Path, file: BinaryIO, image: Image.Image) -> None:
    """Refuse a PNG or sequential JPEG of more pixels than its bytes can hold: decoders fill up what is missing."""
    place = file.tell()
    length = file.seek(0, io.SEEK_END)
    file.seek(place)
    pixels = image.height * image.width
    sequential = image.format in _JPEG and "progressive" not in image.info
    least = pixels // 64 * _BITS_A_BLOCK // 8 if sequential else pixels // 8 // DEFLATED_AT_MOST
    if (sequential or image.format == "PNG") and length < least:
        raise DataError(
            f"{path}: the header promises {pixels} pixels, more than {length} bytes can hold; {MEND}",
            code="image-unreadable",
        )


# ------------------------------------------------------------------------------------------------------ completeness
def _check_end(path: Path, file: BinaryIO) -> None:
    if not _is_complete(file):
        raise DataError(f"{path}: the file ends too early (a broken copy or download); {MEND}", code="image-unreadable")


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
def _factor(size: tuple[int, int], least: tuple[int, int]) -> int:
    """By how much the sides of a JPEG of (height, width) `size` may shrink so that `least` is still there."""
    fits = (factor for factor in _REDUCED if size[0] // factor >= least[0] and size[1] // factor >= least[1])
    return next(fits, 1)


def _decode_jpeg(path: Path, data: bytes, size: tuple[int, int], factor: int) -> np.ndarray:
    # Orientation is ours to apply, so that size and pixels cannot disagree.
    flag = _REDUCED[factor] if factor > 1 else _COLOUR
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise DataError(f"{path}: a damaged JPEG file; {MEND}", code="image-unreadable")
    if pixels.shape[:2] != (-(-size[0] // factor), -(-size[1] // factor)):
        raise DataError(f"{path}: the header says another size than the pixels have; {MEND}", code="image-unreadable")
    return pixels if flag == _COLOUR_RGB else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)


def _decode_with_pillow(path: Path, image: Image.Image) -> np.ndarray:
    size = image.size
    try:
        image.load()
        if image.size != size and image.format != "TIFF":  # a TIFF is turned as it is loaded
            raise DataError(
                f"{path}: the header says another size than the pixels have; {MEND}", code="image-unreadable"
            )
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if image.mode in ("I", "F"):
            raise DataError(f"{path}: {_NO_RANGE}", code="image-kind")
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            white = Image.new("RGBA", layer.size, "white")
            image = Image.alpha_composite(white, layer)
        return np.array(image.convert("RGB"))  # a copy, since Pillow's own memory is read-only
    except DataError:
        raise
    except Exception as fault:  # a damaged file can make a decoder raise anything
        raise DataError(f"{path}: cannot be decoded ({fault}); {MEND}", code="image-unreadable") from None


def _native(path: Path, data: bytes, image: Image.Image, orientation: int) -> Native:
    """The file's own channels and depth. Pillow cuts colours of 16 bits to 8, so those are OpenCV's."""
    if image.mode in ("RGB", "RGBA", "LA") and image.format in ("PNG", "PPM", "JPEG2000"):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is not None and pixels.dtype == np.uint16 and pixels.ndim == 3:
            code = cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
            pixels = cv2.cvtColor(pixels, code)
            if image.mode == "LA":
                pixels = np.ascontiguousarray(pixels[..., [0, 3]])
            return Native(pixels, orientation, alpha=pixels.shape[2] in (2, 4))
    try:
        image.load()
        native = pillow_pixels(image)
    except Exception as fault:  # a damaged file can make a decoder raise anything
        raise DataError(f"{path}: cannot be decoded ({fault}); {MEND}", code="image-unreadable") from None
    return Native(native.pixels, orientation, native.alpha)


def as_wanted(path: Path | str, native: Native, decoding: Decoding) -> np.ndarray:
    """Bring pixels to the wanted depth and number of channels, upright, by the policy of this module.

    Raises:
        DataError: they cannot be brought there; the message begins with `path`.
    """
    pixels = _in_depth(path, native.pixels, decoding)
    if native.alpha and decoding.channels in (1, 3):
        pixels = _over_white(pixels)
    count = pixels.shape[2]
    if count == 1 and decoding.channels == 3:
        pixels = np.repeat(pixels, 3, axis=2)
    elif count == 3 and decoding.channels == 1:
        pixels = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)[..., None]
    elif count != decoding.channels:
        channels = "1 channel" if count == 1 else f"{count} channels"
        fits = f"give data.channels={count}, or mend the file"
        raise DataError(
            f"{path}: it holds {channels}, and data.channels={decoding.channels}; {fits}", code="image-kind"
        )
    upright = np.ascontiguousarray(_upright(pixels, native.orientation))
    return upright if upright.flags.writeable else upright.copy()


def _in_depth(path: Path | str, pixels: np.ndarray, decoding: Decoding) -> np.ndarray:
    dtype, wanted = pixels.dtype, decoding.dtype
    if dtype.kind == "f":
        if decoding.bit_depth != "float":
            raise DataError(f"{path}: {_NO_RANGE}", code="image-kind")
        if not np.isfinite(pixels).all():
            raise DataError(
                f"{path}: it holds numbers that are not finite; replace them, as by 0 or the band's mean",
                code="image-kind",
            )
        return pixels.astype(np.float32, copy=False)
    if dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"{path}: samples of {dtype} have no known range; save it as uint8, uint16 or float32", code="image-kind"
        )
    if dtype == wanted:
        return pixels
    if decoding.bit_depth == "float":
        return pixels.astype(np.float32) / np.float32(np.iinfo(dtype).max)
    return (pixels >> 8).astype(np.uint8) if decoding.bit_depth == 8 else pixels.astype(np.uint16) * np.uint16(257)


def _over_white(pixels: np.ndarray) -> np.ndarray:
    """Composite (H, W, C + alpha) over white: (H, W, C) of the same dtype."""
    white = 1.0 if pixels.dtype == np.float32 else float(np.iinfo(pixels.dtype).max)
    alpha = pixels[..., -1:].astype(np.float64) / white
    mixed = pixels[..., :-1] * alpha + white * (1 - alpha)
    return mixed.astype(np.float32) if pixels.dtype == np.float32 else np.rint(mixed).astype(pixels.dtype)
