"""Pictures inside a page, as long as there is room for them."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np

MOST_BYTES = 12_000_000
"""Of all pictures of a page together, as they stand in it."""


class Album:
    """Turns pictures into data URIs until `most` bytes are used up; `left_out` counts those that came too late."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.left = most
        self.left_out = 0

    def photograph(self, pixels: np.ndarray) -> str | None:
        """Return (H, W, 3) uint8 RGB as a JPEG; None without room."""
        done, encoded = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 82])
        if not done:
            raise RuntimeError(f"a picture of {pixels.shape} could not be encoded")
        return self._taken("jpeg", encoded.tobytes())

    def figure(self, path: Path) -> str | None:
        """Return a PNG as it is; None without room."""
        return self._taken("png", path.read_bytes())

    def _taken(self, kind: str, content: bytes) -> str | None:
        uri = f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
        if len(uri) > self.left:
            self.left_out += 1
            return None
        self.left -= len(uri)
        return uri
