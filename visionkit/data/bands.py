"""Images that are plain arrays: NumPy files, and TIFF files of many bands, of 16 bits and more, or of several pages.

Pillow opens no TIFF of several bands with more than 8 bits each, and OpenCV none of more than 4 bands, so their pages
are read here: uncompressed or packed by Deflate, LZW or PackBits, in strips or tiles, chunky or planar (TIFF 6.0;
BigTIFF too). Sizes are checked against the file's length before memory is taken, since a header may claim anything.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

from visionkit.data.tiff_parts import AT_MOST, unpacked
from visionkit.errors import DataError, printable

MEND = "save it again as JPEG or PNG, or take it out of the data set"
_MEND_ARRAY = "save it as .npy, (H, W, C) of uint8, uint16 or float32"
_NUMPY = b"\x93NUMPY"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_PAGES = 4096
_ASSOCIATED, _UNASSOCIATED = 1, 2
_KINDS = {1: "u", 2: "i", 3: "f"}


@dataclass(frozen=True, eq=False)
class Native:
    """Pixels as a file holds them: (H, W, C) of the file's own dtype, in native byte order.

    Attributes:
        pixels: the array.
        orientation: EXIF's, 1 to 8, still to be applied.
        alpha: the last channel is the opacity.
    """

    pixels: np.ndarray
    orientation: int = 1
    alpha: bool = False


@dataclass(frozen=True)
class Page:
    """What one TIFF page says of itself; `tags` by their numbers."""

    size: tuple[int, int]
    samples: int
    dtype: np.dtype
    alpha: bool
    tags: dict[int, Any]

    @property
    def is_beyond_pillow(self) -> bool:
        """Whether Pillow would drop bands (it stops at four), or refuse them: in floating point, or not called RGB."""
        grey = self.number(262, 1) == 1
        return self.samples > 4 or (self.samples > 1 and self.dtype.kind == "f") or (self.samples > 2 and grey)

    def values(self, tag: int) -> list[int]:
        """The numbers under a tag, none where it is not there."""
        value = self.tags.get(tag, ())
        return [int(one) for one in (value if isinstance(value, tuple | list) else (value,))]

    def number(self, tag: int, default: int) -> int:
        """The first number under a tag."""
        return (self.values(tag) or [default])[0]


def is_numpy(start: bytes) -> bool:
    """Whether a file that starts so is a NumPy array."""
    return start.startswith(_NUMPY)


def is_tiff(start: bytes) -> bool:
    """Whether a file that starts so is a TIFF or BigTIFF."""
    return start[:4] in _TIFF


def check_pixels(path: Path, height: int, width: int) -> None:
    """Refuse an image of more pixels than `PIL.Image.MAX_IMAGE_PIXELS`."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and height * width > limit:
        raise DataError(f"{path}: {width} x {height}, {too_large()}", code="image-too-large")


def too_large() -> str:
    """Say what to do about an image over the limit."""
    limit = Image.MAX_IMAGE_PIXELS
    return f"more than {limit} pixels; cut it into tiles, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file"


# --------------------------------------------------------------------------------------------------------- NumPy files
def numpy_shape(path: Path, file: BinaryIO) -> tuple[tuple[int, int, int], np.dtype]:
    """Return the (H, W, C) and dtype that a .npy file's header tells, and leave the file at its pixels.

    Raises:
        DataError: the header is damaged, tells of something else than an image, or of more than the file holds.
    """
    try:
        version = np.lib.format.read_magic(file)
        read: Callable[..., Any] = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read(file)
    except Exception as fault:  # a header is a Python literal, whose parser raises many errors
        reason = printable(str(fault)[:100])
        raise DataError(f"{path}: a damaged NumPy file ({reason}); {_MEND_ARRAY}", code="image-unreadable") from None
    if fortran or dtype.hasobject or dtype.names or len(shape) not in (2, 3) or 0 in shape:
        order = " in Fortran order" if fortran else ""
        raise DataError(f"{path}: an array {shape} {dtype}{order} is no image; {_MEND_ARRAY}", code="image-unreadable")
    full = (*shape, 1) if len(shape) == 2 else shape
    check_pixels(path, full[0], full[1])
    start = file.tell()
    length = file.seek(0, io.SEEK_END) - start
    file.seek(start)
    if length < math.prod(full) * dtype.itemsize:
        raise DataError(
            f"{path}: the file ends too early (a broken copy or download); {_MEND_ARRAY}", code="image-unreadable"
        )
    return full, dtype


def read_numpy(path: Path, data: bytes) -> Native:
    """Return the image of a .npy file; nothing in it is ever executed."""
    file = io.BytesIO(data)
    shape, dtype = numpy_shape(path, file)
    pixels = np.frombuffer(data, dtype, math.prod(shape), file.tell()).reshape(shape)
    return Native(pixels.astype(dtype.newbyteorder("="), copy=False))


# ---------------------------------------------------------------------------------------------------------- TIFF files
def tiff_pages(path: Path, file: BinaryIO) -> list[Page]:
    """Return the pages of a TIFF file, at least one; the pixels are not read.

    Raises:
        DataError: the file is damaged, or a page is over the limit of pixels.
    """
    try:
        pages = _pages(file)
    except Exception as fault:  # a damaged header can make the parser raise anything
        raise DataError(f"{path}: a damaged TIFF file ({fault}); {MEND}", code="image-unreadable") from None
    if not pages:
        raise DataError(f"{path}: a TIFF file without a page; {MEND}", code="image-unreadable")
    for page in pages:
        check_pixels(path, *page.size)
    return pages


def _pages(file: BinaryIO) -> list[Page]:
    file.seek(0)
    header = file.read(8)
    if header[2:3] == b"+" or header[3:4] == b"+":
        header += file.read(8)
    directory = TiffImagePlugin.ImageFileDirectory_v2(header)
    order = "<" if header[:2] == b"II" else ">"
    pages: list[Page] = []
    seen: set[int] = set()
    while directory.next and directory.next not in seen and len(pages) < _MOST_PAGES:
        seen.add(directory.next)
        file.seek(directory.next)
        directory.load(file)
        tags = dict(directory)
        if not int(tags.get(254, 0)) & 1:  # a page of reduced resolution is a thumbnail of another one
            pages.append(_page(tags, order))
    return pages


def _page(tags: dict[int, Any], order: str) -> Page:
    samples = int(tags.get(277, 1))
    bits = {int(one) for one in np.atleast_1d(tags.get(258, 1))}
    kinds = {int(one) for one in np.atleast_1d(tags.get(339, 1))}
    kind = _KINDS.get(kinds.pop(), "u") if len(kinds) == 1 else "u"
    width = bits.pop() if len(bits) == 1 else 0
    # One bit, 12 bits and bands of different depth have no dtype; they are Pillow's.
    known = width in ((16, 32, 64) if kind == "f" else (8, 16, 32))
    dtype = np.dtype(f"{order}{kind}{width // 8}") if known else np.dtype("V1")
    extra = [int(one) for one in np.atleast_1d(tags.get(338, ()))]
    alpha = bool(extra) and extra[-1] in (_ASSOCIATED, _UNASSOCIATED)
    return Page((int(tags[257]), int(tags[256])), samples, dtype, alpha, tags)


def read_tiff(path: Path, data: bytes, pages: Sequence[Page], channels: int) -> Native:
    """Return the first page, or all pages as the bands of one image where only so there are `channels` of them.

    Raises:
        DataError: the pages have different sizes, or one cannot be decoded.
    """
    several = channels > 3 or channels == 2
    if several and pages[0].samples == 1 and len(pages) == channels:
        read = [_read_page(path, data, page, number) for number, page in enumerate(pages)]
        if len({(one.pixels.shape, one.pixels.dtype) for one in read}) > 1:
            raise DataError(f"{path}: its pages differ in size or depth; {_MEND_ARRAY}", code="image-unreadable")
        return Native(np.concatenate([one.pixels for one in read], axis=2), read[0].orientation)
    return _read_page(path, data, pages[0], 0)


def _read_page(path: Path, data: bytes, page: Page, number: int) -> Native:
    plain = page.number(259, 1) in AT_MOST and page.number(262, 1) in (1, 2)
    if plain and page.dtype.kind != "V" and page.number(317, 1) in (1, 2) and page.number(266, 1) == 1:
        orientation = page.number(274, 1)
        return Native(_segments(path, data, page), orientation if 1 <= orientation <= 8 else 1, page.alpha)
    if page.samples > 1 and page.dtype.kind != "V" and page.dtype != np.uint8 and number == 0:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # it turns TIFFs by itself
        if pixels is not None and pixels.ndim == 3 and pixels.shape[2] == page.samples:
            code = cv2.COLOR_BGR2RGB if page.samples == 3 else cv2.COLOR_BGRA2RGBA
            return Native(cv2.cvtColor(pixels, code), alpha=page.alpha)
    elif page.samples <= 4:
        return _by_pillow(path, data, number)
    what = f"{page.samples} bands of {page.dtype.itemsize * 8} bits, compression {page.number(259, 1)}"
    raise DataError(
        f"{path}: a TIFF of {what} cannot be read; save it with Deflate, LZW or no compression", code="image-unreadable"
    )


def _by_pillow(path: Path, data: bytes, number: int) -> Native:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.seek(number)
            image.load()  # turned by Pillow
            return pillow_pixels(image)
    except Exception as fault:  # a damaged file can make a decoder raise anything
        raise DataError(f"{path}: cannot be decoded ({fault}); {MEND}", code="image-unreadable") from None


def pillow_pixels(image: Image.Image) -> Native:
    """Return a loaded image's own channels: grey, grey and alpha, RGB, or RGBA; other colour spaces become RGB."""
    if image.mode.startswith("I;16"):
        return Native(np.asarray(image).astype(np.uint16)[..., None])
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return Native(np.asarray(image).astype(np.uint16)[..., None])  # older Pillow's way with 16 bits
    if image.mode in ("I", "F"):
        return Native(np.asarray(image)[..., None])
    if image.mode in ("1", "L", "LA") and "transparency" not in image.info:
        layer = image if image.mode == "LA" else image.convert("L")
    else:
        layer = image.convert("RGBA" if image.has_transparency_data else "RGB")
    pixels = np.array(layer)
    return Native(pixels[..., None] if pixels.ndim == 2 else pixels, alpha=layer.mode in ("LA", "RGBA"))


def _segments(path: Path, data: bytes, page: Page) -> np.ndarray:
    """Lay a page's strips or tiles out as (H, W, samples)."""
    height, width = page.size
    tiled = 324 in page.tags
    rows = page.number(323, 0) if tiled else min(page.number(278, height), height)
    columns = page.number(322, 0) if tiled else width
    offsets, counts = page.values(324 if tiled else 273), page.values(325 if tiled else 279)
    planar = page.number(284, 1) == 2
    planes, depth = (page.samples, 1) if planar else (1, page.samples)
    if min(height, width, rows, columns) < 1:
        raise DataError(f"{path}: a damaged TIFF file (an empty page); {MEND}", code="image-unreadable")
    down, across = -(-height // rows), -(-width // columns)
    wanted = height * width * page.samples * page.dtype.itemsize
    if len(offsets) != len(counts) or len(offsets) < planes * down * across:
        raise DataError(f"{path}: a damaged TIFF file (parts are missing); {MEND}", code="image-unreadable")
    if wanted > len(data) * AT_MOST[page.number(259, 1)]:
        raise DataError(f"{path}: the file ends too early (a broken copy or download); {MEND}", code="image-unreadable")
    pixels = np.zeros((height, width, page.samples), page.dtype.newbyteorder("="))
    place = 0
    for plane in range(planes):
        bands = slice(plane, plane + 1) if planar else slice(None)
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                tall = rows if tiled else min(rows, height - top)
                content = data[offsets[place] : offsets[place] + counts[place]]
                part = _part(path, content, (tall, columns, depth), page)
                target = pixels[top : top + tall, left : left + columns, bands]
                target[:] = part[: target.shape[0], : target.shape[1]]
                place += 1
    return pixels


def _part(path: Path, content: bytes, shape: tuple[int, int, int], page: Page) -> np.ndarray:
    length = math.prod(shape) * page.dtype.itemsize
    try:
        content = unpacked(content, length, page.number(259, 1))
    except ValueError as fault:
        raise DataError(f"{path}: cannot be decoded ({fault}); {MEND}", code="image-unreadable") from None
    if len(content) < length:
        raise DataError(f"{path}: the file ends too early (a broken copy or download); {MEND}", code="image-unreadable")
    part = np.frombuffer(content, page.dtype, math.prod(shape)).reshape(shape)
    if page.number(317, 1) == 2:  # each pixel is stored as its difference from the one on its left
        part = np.cumsum(part, axis=1, dtype=page.dtype.newbyteorder("="))
    return part
