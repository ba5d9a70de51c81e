"""Colours, noise, patterns and light for generated scenes. Colours are RGB float32, 0 … 1."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

PATTERNS = ("plain", "stripes", "dots", "checks", "noise", "gradient")
NOISE_SIDE = 256


@dataclass(frozen=True)
class Light:
    """Where light comes from, a unit vector (x right, y down, z towards the viewer), and how strongly it shapes."""

    x: float
    y: float
    z: float
    strength: float
    shadow: float
    """How much a cast shadow takes away, 0 … 1."""


@dataclass(frozen=True)
class Paint:
    """How an object is coloured: a pattern between two colours, `period` in units of the object's half size."""

    pattern: str
    first: np.ndarray
    second: np.ndarray
    period: float
    angle: float
    shift: tuple[int, int]
    gloss: float


def colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """Return (3,) float32 RGB of a hue in turns, a saturation and a value."""
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32)


def random_paint(rng: np.random.Generator, variety: float) -> Paint:
    """Draw the paint of an object; `variety` 0 … 1 raises the contrast and the finesse of its pattern."""
    hue, value = rng.random(), rng.uniform(0.4, 1.0)
    other = (hue + rng.uniform(-0.5, 0.5) * variety) % 1
    away = rng.uniform(0.25, 0.55) * (0.5 + variety)
    second = value - away if value - away > 0.1 else value + away
    return Paint(
        pattern=PATTERNS[int(rng.integers(len(PATTERNS)))],
        first=colour(hue, rng.uniform(0.3, 0.95), value),
        second=colour(other, rng.uniform(0.2, 0.9), min(max(second, 0.05), 1.0)),
        period=float(rng.uniform(0.75 - 0.4 * variety, 0.9)),
        angle=float(rng.uniform(0, np.pi)),
        shift=(int(rng.integers(NOISE_SIDE)), int(rng.integers(NOISE_SIDE))),
        gloss=float(rng.uniform(0, 0.6)),
    )


def texture(paint: Paint, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return (3, h, w) float32 colours for object coordinates u, v, each (h, w) float32; (3, 1, 1) where plain."""
    first, second = paint.first[:, None, None], paint.second[:, None, None]
    if paint.pattern == "plain":
        return first
    cosine, sine = np.float32(np.cos(paint.angle)), np.float32(np.sin(paint.angle))
    s, t = cosine * u + sine * v, cosine * v - sine * u
    wave = np.float32(2 * np.pi / paint.period)
    if paint.pattern == "stripes":
        mix = np.sin(s * wave) * 2.5 + 0.5
    elif paint.pattern == "dots":
        mix = (np.cos(s * wave) + np.cos(t * wave)) * 2 - 0.7
    elif paint.pattern == "checks":
        mix = np.sin(s * wave) * np.sin(t * wave) * 6 + 0.5
    elif paint.pattern == "noise":
        fine = np.float32(20 / paint.period)
        rows = (t * fine).astype(np.int32) + paint.shift[0]
        columns = (s * fine).astype(np.int32) + paint.shift[1]
        mix = noise(1)[rows % NOISE_SIDE, columns % NOISE_SIDE] * 0.4 + 0.4
    else:
        mix = s * 0.5 + 0.5
    blended: np.ndarray = first + np.minimum(np.maximum(mix, 0), 1) * (second - first)
    return blended


@cache
def noise(kind: int) -> np.ndarray:
    """Return (256, 256) float32 noise that tiles, mean 0, deviation 1, within ±2.5: 0 cloudy, 1 coarse, 2 fine."""
    white = np.random.default_rng(20_000 + kind).standard_normal((NOISE_SIDE, NOISE_SIDE))
    rows = np.fft.fftfreq(NOISE_SIDE)[:, None] * NOISE_SIDE
    columns = np.fft.rfftfreq(NOISE_SIDE)[None, :] * NOISE_SIDE
    frequency = np.sqrt(rows**2 + columns**2)
    shape = {0: (frequency + 1.5) ** -1.8, 1: np.exp(-(((frequency - 18) / 12) ** 2)), 2: (frequency + 20) ** -0.6}[
        kind
    ]
    field = np.fft.irfft2(np.fft.rfft2(white) * shape, s=white.shape)
    field = (field - field.mean()) / field.std()
    bounded: np.ndarray = np.clip(field, -2.5, 2.5).astype(np.float32)
    return bounded


def noise_plane(rng: np.random.Generator, kind: int, span: tuple[float, float], height: int, width: int) -> np.ndarray:
    """Return (height, width) float32: `span` (rows, columns) cells of noise, at most 128, stretched over the plane."""
    rows, columns = max(2, min(round(span[0]), 128)), max(2, min(round(span[1]), 128))
    top, left = (int(v) for v in rng.integers(0, NOISE_SIDE - 128, 2))
    window = noise(kind)[top : top + rows, left : left + columns]
    return cv2.resize(window, (width, height), interpolation=cv2.INTER_LINEAR)
