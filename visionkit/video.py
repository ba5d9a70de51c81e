"""Videos: read and written frame by frame, by OpenCV."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import cv2
import numpy as np

from visionkit.data.bands import Native
from visionkit.data.decode import as_wanted
from visionkit.errors import RunError
from visionkit.read_ahead import ahead
from visionkit.structures import Decoding

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
"""The file names, by their lower-case ending, that are read as videos."""
_USUAL_RATE = 25.0
"""Frames per second of a video that does not tell its own."""
_LOST = 25
"""Frames in a row that cannot be read, after which a video counts as ended."""


class Video:
    """A video file, to be read once.

    Attributes:
        source: the file.
        rate: frames per second.
        total: frames, as the file says; 0 where it does not.
        unreadable: the numbers, from 1, of frames among others that could not be read.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.capture = cv2.VideoCapture(str(source))
        rate = self.capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if math.isfinite(rate) and 0 < rate <= 1000 else _USUAL_RATE
        self.total = max(0, int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.unreadable: list[int] = []

    def frames(self, most: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the frames' numbers, from 1, and pixels, (H, W, 3) uint8 RGB; `most` are read ahead in a thread."""
        lost: list[int] = []
        for number, frame in ahead(self._read, count(1), most=most, threads=1):
            if frame is not None:
                self.unreadable += lost
                lost = []
                yield number, frame
                continue
            lost.append(number)
            if number >= self.total or len(lost) >= _LOST:
                break
        self.capture.release()

    def as_taken(self, frame: np.ndarray, decoding: Decoding) -> np.ndarray:
        """A frame as a model takes its images."""
        return as_wanted(self.source, Native(frame), decoding)

    def _read(self, number: int) -> tuple[int, np.ndarray | None]:
        is_read, frame = self.capture.read()
        return number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if is_read else None


class VideoFile:
    """An MPEG-4 video that appears under its name once it is whole.

    Args:
        target: the .mp4 file; its folder is made with the first frame.
        rate: frames per second.
    """

    def __init__(self, target: Path, rate: float) -> None:
        self.target, self.rate = target, rate
        self.unfinished = target.with_name(f".{target.stem}.unfinished.mp4")
        self.writer: cv2.VideoWriter | None = None

    def write(self, frame: np.ndarray) -> None:
        """Add a frame, (H, W, 3) uint8 RGB, all of one size.

        Raises:
            RunError: this OpenCV writes no such videos.
        """
        if self.writer is None:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self.writer = cv2.VideoWriter(str(self.unfinished), code, self.rate, (frame.shape[1], frame.shape[0]))
            if not self.writer.isOpened():
                told = "the video cannot be written; OpenCV has no MPEG-4 encoder here"
                raise RunError(f"{self.target}: {told}; leave drawings out of save=[…]", code="video-unusable")
        self.writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """End the video."""
        if self.writer is not None:
            self.writer.release()
            self.unfinished.replace(self.target)
