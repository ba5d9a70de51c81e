"""The stuff of generated scenes: regions behind and in front of a horizon, each with its own texture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from visionkit.data.scene_textures import colour, noise_plane

BACK = ("sky", "wall")
FRONT = ("ground", "grass", "water")


def background(rng: np.random.Generator, height: int, width: int, clutter: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw the stuff of a scene.

    Returns the image, (3, height, width) float32 around 0 … 1, and the map, (height, width) uint8 of indices into
    `BACK + FRONT`.
    """
    regions = _regions(rng, height, width)
    colours, tones = np.zeros((3, len(_PAINTERS)), np.float32), np.zeros((height, width), np.float32)
    for index in np.flatnonzero(np.bincount(regions.ravel(), minlength=len(_PAINTERS))):
        inside = regions == index
        rows = np.flatnonzero(inside.any(axis=1))
        span = slice(rows[0], rows[-1] + 1)
        colours[:, index], tone = _PAINTERS[index](
            rng, len(inside[span]), width, min(height, width), 0.25 + 1.1 * clutter
        )
        tones[span] = np.where(inside[span], tone, tones[span])
    return np.take(colours, regions, axis=1) * (1 + tones), regions


def _regions(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Choose one or two kinds of stuff on each side of the horizon and the curves between them."""
    rows = np.arange(height)[:, None] + 0.5
    horizon = rng.uniform(0.25, 0.7) * height + _curve(rng, width, 0.04 * height)
    back, front = rng.permutation(len(BACK)), rng.permutation(len(FRONT)) + len(BACK)
    regions = np.where(rows < horizon, np.uint8(back[0]), np.uint8(front[0]))
    if rng.random() < 0.5:
        skyline = horizon * rng.uniform(0.3, 0.8) + _curve(rng, width, 0.1 * height)
        regions[(rows < horizon) & (rows >= skyline)] = BACK.index("wall")
        regions[(rows < horizon) & (rows < skyline)] = BACK.index("sky")
    if rng.random() < 0.5:
        shore = horizon + (height - horizon) * rng.uniform(0.25, 0.75) + _curve(rng, width, 0.1 * height)
        regions[(rows >= horizon) & (rows >= shore)] = front[1]
    return regions


def _curve(rng: np.random.Generator, width: int, swing: float) -> np.ndarray:
    """Return (width,) heights: a slope and two waves of about ± `swing`."""
    x = (np.arange(width) + 0.5) / width
    turns, phases, swings = rng.uniform(0.5, 3, 2), rng.uniform(0, 2 * np.pi, 2), rng.uniform(0, swing, 2)
    waves = swings[:, None] * np.sin(2 * np.pi * turns[:, None] * x + phases[:, None])
    heights: np.ndarray = waves.sum(axis=0) + rng.uniform(-1, 1) * swing * (x - 0.5)
    return heights


Painted = tuple[np.ndarray, np.ndarray]
"""A colour, (3,), and how much brighter or darker each pixel is, (height, width) float32 around 0."""


def _sky(rng: np.random.Generator, height: int, width: int, side: int, contrast: float) -> Painted:
    top = colour(rng.uniform(0.52, 0.64), rng.uniform(0.1, 0.6), rng.uniform(0.6, 1.0))
    clouds = noise_plane(rng, 0, (60 * height / side, 40 * width / side), height, width) * (0.09 * contrast)
    fade = np.linspace(0, rng.uniform(0, 0.3), height, dtype=np.float32)[:, None]
    return top, clouds + fade


def _wall(rng: np.random.Generator, height: int, width: int, side: int, contrast: float) -> Painted:
    base = colour(rng.random(), rng.uniform(0.0, 0.5), rng.uniform(0.35, 0.9))
    tone = noise_plane(rng, 2, (100 * height / side, 100 * width / side), height, width) * (0.05 * contrast)
    high, wide = rng.uniform(0.05, 0.13), rng.uniform(0.1, 0.3)
    course = np.arange(height) / (side * high) + rng.random()
    if rng.random() < 0.7:
        bricks = np.arange(width) / (side * wide) + np.array([[0.0], [0.5]])
        joints = (bricks % 1 < 0.07)[course.astype(np.int64) % 2]
        mortar = (course % 1 < 0.14)[:, None] | joints
        tone -= mortar * np.float32(rng.uniform(-0.25, 0.25) * contrast)
    return base, tone


def _ground(rng: np.random.Generator, height: int, width: int, side: int, contrast: float) -> Painted:
    base = colour(rng.uniform(0.03, 0.13), rng.uniform(0.1, 0.5), rng.uniform(0.3, 0.75))
    tone = noise_plane(rng, 1, (80 * height / side, 60 * width / side), height, width) * (0.12 * contrast)
    return base, tone


def _grass(rng: np.random.Generator, height: int, width: int, side: int, contrast: float) -> Painted:
    base = colour(rng.uniform(0.2, 0.38), rng.uniform(0.35, 0.8), rng.uniform(0.3, 0.7))
    tone = noise_plane(rng, 2, (50 * height / side, 120 * width / side), height, width) * (0.14 * contrast)
    return base, tone


def _water(rng: np.random.Generator, height: int, width: int, side: int, contrast: float) -> Painted:
    base = colour(rng.uniform(0.47, 0.62), rng.uniform(0.35, 0.85), rng.uniform(0.3, 0.7))
    tone = noise_plane(rng, 1, (100 * height / side, 16 * width / side), height, width) * (0.12 * contrast)
    return base, tone


_PAINTERS: tuple[Callable[[np.random.Generator, int, int, int, float], Painted], ...] = (
    _sky,
    _wall,
    _ground,
    _grass,
    _water,
)
"""In the order of `BACK + FRONT`."""
