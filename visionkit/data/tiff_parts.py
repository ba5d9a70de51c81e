"""The strips and tiles of a TIFF file, unpacked."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

_NONE, _DEFLATE, _LZW, _OLD_DEFLATE, _PACKBITS = 1, 8, 5, 32946, 32773
DEFLATED_AT_MOST = 1040
"""Deflate makes at most so many bytes of one."""
AT_MOST = {_NONE: 1, _DEFLATE: DEFLATED_AT_MOST, _OLD_DEFLATE: DEFLATED_AT_MOST, _LZW: 1400, _PACKBITS: 64}
"""The compressions that are unpacked here, by their number in a TIFF file, and what they make of a byte at most."""
_SHORT, _LONG = 3, 4


def unpacked(content: bytes, length: int, compression: int) -> bytes:
    """Return the bytes of a strip or tile, at most `length` of them.

    Raises:
        ValueError: it is damaged.
    """
    if compression == _NONE:
        return content
    if compression in (_DEFLATE, _OLD_DEFLATE):
        try:
            return zlib.decompressobj().decompress(content, length)
        except zlib.error as fault:
            raise ValueError(str(fault)) from None
    try:
        with Image.open(io.BytesIO(_as_file(content, length, compression))) as image:
            return image.tobytes()
    except Exception as fault:  # a damaged part can make the decoder raise anything
        raise ValueError(str(fault)) from None


def _as_file(content: bytes, length: int, compression: int) -> bytes:
    """A part as a TIFF file of its own: one row of grey pixels. Both compressions are of bytes, whatever these mean."""
    tags = [
        (256, _LONG, length),
        (257, _LONG, 1),
        (258, _SHORT, 8),
        (259, _SHORT, compression),
        (262, _SHORT, 1),
        (273, _LONG, 0),
        (277, _SHORT, 1),
        (278, _LONG, 1),
        (279, _LONG, len(content)),
    ]
    start = 8 + 2 + 12 * len(tags) + 4
    directory = b"".join(
        struct.pack("<HHII", tag, kind, 1, start if tag == 273 else value) for tag, kind, value in tags
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + b"\0\0\0\0" + content
