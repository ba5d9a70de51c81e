"""The objects of generated scenes: ten forms as polygons, seen from somewhere, textured, lit and rasterised.

Everything that decides a label is plain numpy on float64 coordinates, so that labels do not depend on the version of
an imaging library; cv2 only softens shadows and measures distances for shading.

Form coordinates are about −1 … 1, x to the right and y down; outlines become pixels when an object is posed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from visionkit.data.scene_textures import Light, Paint, texture

_SUBLINES = 4
_SOLID = 0.499
"""Coverage from which a pixel is an object's. Two lines of four are often covered: rounding must not decide there."""


@dataclass(frozen=True)
class Knobs:
    """How hard a world is, from 0 (tidy) to 1 (hard); what a lower value can draw, a higher value can draw too."""

    viewpoint: float = 0.5
    illumination: float = 0.5
    occlusion: float = 0.5
    clutter: float = 0.5
    deformation: float = 0.5
    intra_class: float = 0.5
    inter_class: float = 0.5


@dataclass(frozen=True)
class Part:
    """A polygon with holes and its tone, a factor on brightness; later parts lie over earlier ones."""

    rings: tuple[np.ndarray, ...]
    """(K, 2) float64 polygons: the outer one, then the holes in it, each in either direction."""
    tone: float = 1.0


@dataclass(frozen=True)
class Form:
    """A form's outlines as one list of N edges, ring after ring.

    Attributes:
        points: (N, 2) float64, where an edge starts.
        following: (N,) int64, the row of the point where it ends.
        weights: (N,) float64 +1 or −1, such that summing the edges gives 1 inside an outer ring and 0 in a hole.
        holes: (N,) bool, the points of holes.
        parts: (first row, last row + 1, tone) of each part, in drawing order.
        depth: how far a flat form is extruded.
        bevel: the share of its half width that is rounded.
    """

    points: np.ndarray
    following: np.ndarray
    weights: np.ndarray
    holes: np.ndarray
    parts: tuple[tuple[int, int, float], ...]
    depth: float
    bevel: float


Vary = Callable[[float, float], float]
"""Draws around a value: vary(0.3, 0.1) lies within 0.3 ± 0.1 at `intra_class` 1, and is 0.3 at 0."""


# -------------------------------------------------------------------------------------------------------------- forms
def _form(*parts: Part, depth: float = 0.0, bevel: float = 1.0) -> Form:
    rings = [ring for part in parts for ring in part.rings]
    points = np.concatenate(rings)
    lengths = np.array([len(ring) for ring in rings])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = starts
    after = points[following]
    turns = np.add.reduceat(points[:, 0] * after[:, 1] - points[:, 1] * after[:, 0], starts)
    holes = np.array([i > 0 for part in parts for i in range(len(part.rings))])
    weights = np.where((turns > 0) == holes, 1.0, -1.0)
    firsts = np.cumsum([0, *[sum(len(ring) for ring in part.rings) for part in parts]]).tolist()
    rows = tuple((firsts[i], firsts[i + 1], part.tone) for i, part in enumerate(parts))
    return Form(points, following, np.repeat(weights, lengths), np.repeat(holes, lengths), rows, depth, bevel)


def _arc(x: float, y: float, radii: tuple[float, float], start: float, stop: float, count: int) -> np.ndarray:
    """Return (count, 2) points on an ellipse from angle `start` to `stop` in degrees, 0 at the right, 90 below."""
    angles = np.radians(start + np.arange(count) * ((stop - start) / (count - 1)))
    return np.stack([x + radii[0] * np.cos(angles), y + radii[1] * np.sin(angles)], axis=1)


def _circle(radius: float, count: int = 40) -> np.ndarray:
    return _arc(0, 0, (radius, radius), 0, 360 - 360 / count, count)


def _polar(radii: np.ndarray, angles: np.ndarray) -> np.ndarray:
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _split(corners: np.ndarray | list[tuple[float, float]], pieces: int = 4) -> np.ndarray:
    """Cut each edge of a polygon into pieces, so that it can bend."""
    corners = np.asarray(corners, np.float64)
    steps = (np.arange(pieces) / pieces)[None, :, None]
    ends = np.concatenate([corners[1:], corners[:1]])
    return (corners[:, None] * (1 - steps) + ends[:, None] * steps).reshape(-1, 2)


def _arrow(vary: Vary) -> Form:
    shaft, head, neck = vary(0.24, 0.08), vary(0.66, 0.12), vary(0.08, 0.2)
    upper = [(-1.0, -shaft), (neck, -shaft), (neck, -head), (1.0, 0.0)]
    return _form(Part((_split([*upper, (neck, head), (neck, shaft), (-1.0, shaft)]),)), depth=0.16, bevel=0.5)


def _ball(vary: Vary) -> Form:
    return _form(Part((_circle(1.0) * [1.0, vary(0.95, 0.1)],)))


def _bottle(vary: Vary) -> Form:
    neck, body, shoulder = vary(0.15, 0.04), vary(0.4, 0.08), vary(-0.3, 0.15)
    right = [(neck, -1.0), (neck, shoulder - 0.2), (body, shoulder + 0.15), (body, 0.88), (body - 0.12, 1.0)]
    outline = _split([*right, *[(-x, y) for x, y in reversed(right)]])
    rim = neck + 0.05
    cap = _split([(rim, -1.0), (rim, -0.8), (-rim, -0.8), (-rim, -1.0)])
    return _form(Part((outline,)), Part((cap,), tone=0.55))


def _box(vary: Vary) -> Form:
    turn, pitch = np.radians(vary(42, 18)), np.radians(vary(32, 9))
    wide, deep, high = vary(1, 0.3), vary(1, 0.3), vary(1, 0.3)
    ground = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * [wide, deep]
    x = ground[:, 0] * np.cos(turn) - ground[:, 1] * np.sin(turn)
    y = (ground[:, 0] * np.sin(turn) + ground[:, 1] * np.cos(turn)) * np.sin(pitch)
    low = np.stack([x, y + high * np.cos(pitch)], axis=1) / 1.7
    top = low - [0, 2 * high * np.cos(pitch) / 1.7]
    right = _split(np.stack([top[1], top[2], low[2], low[1]]))
    left = _split(np.stack([top[2], top[3], low[3], low[2]]))
    return _form(Part((right,), tone=0.5), Part((left,), tone=0.8), Part((_split(top),), tone=1.2), bevel=0.08)


def _crescent(vary: Vary) -> Form:
    shift, radius = vary(0.46, 0.08), vary(0.78, 0.05)
    meet = (1 + shift**2 - radius**2) / (2 * shift)
    outer = float(np.degrees(np.arccos(meet)))
    inner = float(np.degrees(np.arctan2(np.sqrt(1 - meet**2), meet - shift)))
    moon = [_arc(0, 0, (1, 1), outer, 360 - outer, 28), _arc(shift, 0, (radius, radius), 360 - inner, inner, 24)[1:-1]]
    return _form(Part((np.concatenate(moon),)), depth=0.14, bevel=0.6)


def _cross(vary: Vary) -> Form:
    arm, bar, reach = vary(0.3, 0.08), vary(0.3, 0.08), vary(0.92, 0.08)
    quarter = [(arm, -1.0), (arm, -bar), (reach, -bar)]
    right = [*quarter, *[(x, -y) for x, y in reversed(quarter)]]
    return _form(Part((_split([*right, *[(-x, -y) for x, y in right]], 3),)), depth=0.16, bevel=0.5)


def _heart(vary: Vary) -> Form:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3 * vary(1, 0.15)
    y = -13 * np.cos(t) + 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t)
    return _form(Part((np.stack([x, y], axis=1) / 16,)), depth=0.14, bevel=0.8)


def _mug(vary: Vary) -> Form:
    tall, foot, flat, grip = vary(0.72, 0.14), vary(0.5, 0.07), vary(0.17, 0.04), vary(0.44, 0.06)
    wide, x = 0.58, -0.25
    bottom = _arc(x, tall, (foot, flat), 0, 180, 12)
    sides = _split(np.array([bottom[-1], (x - wide, -tall), (x + wide, -tall), bottom[0]]))[:12]
    handle = [_arc(0.27, 0, (grip * 1.3, grip), -85, 85, 14), _arc(0.27, 0, (grip * 0.82, grip * 0.55), 85, -85, 14)]
    return _form(
        Part((np.concatenate(handle),), tone=0.85),
        Part((np.concatenate([bottom, sides[1:]]),)),
        Part((_arc(x, -tall, (wide, flat), 0, 345, 24),), tone=1.15),
        Part((_arc(x, -tall + 0.02, (wide - 0.09, flat - 0.05), 0, 345, 24),), tone=0.35),
        bevel=0.7,
    )


def _ring(vary: Vary) -> Form:
    return _form(Part((_circle(1.0), _circle(vary(0.5, 0.13), 28))))


def _star(vary: Vary) -> Form:
    inner = vary(0.44, 0.08)
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.tile([1.0, inner], 5)
    return _form(Part((_split(_polar(radii, angles)),)), depth=0.15, bevel=0.9)


FORMS: dict[str, Callable[[Vary], Form]] = {
    "arrow": _arrow,
    "ball": _ball,
    "bottle": _bottle,
    "box": _box,
    "crescent": _crescent,
    "cross": _cross,
    "heart": _heart,
    "mug": _mug,
    "ring": _ring,
    "star": _star,
}


def scrap(rng: np.random.Generator) -> Form:
    """Return a shred of no class: an uneven polygon of four to six corners, often long and thin."""
    corners = int(rng.integers(4, 7))
    angles = (np.arange(corners) + rng.uniform(-0.35, 0.35, corners)) * (2 * np.pi / corners)
    radii = rng.uniform(0.45, 1.0, corners)
    points = _polar(radii, angles) * [1.0, rng.uniform(0.2, 0.9)]
    return _form(Part((points,), tone=rng.uniform(0.7, 1.1)), bevel=0.2)


# --------------------------------------------------------------------------------------------------------------- pose
@dataclass(frozen=True)
class Pose:
    """A form as seen: its points in pixels around its own centre.

    Attributes:
        form: what is seen.
        points: (N, 2) float64, the form's points in pixels.
        mirrored: whether the form's orientation is reversed.
        back: (2, 2) float64, leads from pixels to form coordinates (perspective and bending left out).
        extents: x1, y1, x2, y2 around the centre, the extruded side included.
        side: x, y: where the rear face of an extruded form lies from its front.
    """

    form: Form
    points: np.ndarray
    mirrored: bool
    back: np.ndarray
    extents: tuple[float, float, float, float]
    side: tuple[float, float]


def vary_by(rng: np.random.Generator, intra_class: float) -> Vary:
    """Return the draw around a value whose width grows with `intra_class`."""
    return lambda value, spread: value + spread * intra_class * (2 * rng.random() - 1)


def pose(form: Form, rng: np.random.Generator, knobs: Knobs, length: float) -> Pose:
    """Turn, tilt, bend and scale a form so that its longer extent is `length` pixels."""
    turn = (2 * rng.random() - 1) * np.radians(6 + 164 * knobs.viewpoint**4)
    squeeze = 1 - 0.5 * knobs.viewpoint**2 * rng.random()
    axis, mirrored = np.pi * rng.random(), rng.random() < 0.5
    matrix = _turned(axis) @ (np.array([[squeeze], [1.0]]) * _turned(turn - axis))
    if mirrored:
        matrix = matrix * [-1.0, 1.0]
    vanish = (rng.random(2) - 0.5) * (0.72 * knobs.viewpoint**2)
    waves, phases = (rng.random((2, 2)) - 0.5) * 4.8, rng.random(2) * (2 * np.pi)
    swing = rng.random(2) * (0.22 * knobs.deformation)
    pull = 0.3 * knobs.inter_class * (0.6 + 0.4 * rng.random())

    points = form.points
    radii = np.maximum(np.sqrt((points * points).sum(axis=1)), 0.2)
    points = points * np.where(form.holes, 1 - 0.5 * pull, (0.8 / radii) ** pull)[:, None]
    points = points + swing * np.sin(points @ waves + phases)
    points = (points @ matrix.T) / (1 + points @ vanish)[:, None]
    away, reach = 2 * np.pi * rng.random(), form.depth * (0.5 + rng.random())
    side = reach * float(np.cos(away)), reach * float(np.sin(away))
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    left, right = left + min(side[0], 0.0), right + max(side[0], 0.0)
    top, bottom = top + min(side[1], 0.0), bottom + max(side[1], 0.0)
    scale = length / max(right - left, bottom - top)
    wide, high = (right - left) * scale / 2, (bottom - top) * scale / 2
    points = (points - [(left + right) / 2, (top + bottom) / 2]) * scale
    (a, b), (c, d) = matrix.tolist()
    back = np.array([[d, -b], [-c, a]]) / ((a * d - b * c) * scale)
    return Pose(form, points, mirrored, back, (-wide, -high, wide, high), (side[0] * scale, side[1] * scale))


def _turned(angle: float) -> np.ndarray:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


# ------------------------------------------------------------------------------------------------------------- raster
def coverage(starts: np.ndarray, ends: np.ndarray, weights: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return (height, width) float64: the share of each pixel that polygons cover, 0 … 1; overlaps count once.

    starts, ends: (N, 2) pixel coordinates of edges, all inside the plane. weights: (N,), positive for an outer ring
    drawn anticlockwise on the screen, negative for one drawn clockwise; reversed for holes. Each pixel row is cut into
    four lines; along a line the share is exact.
    """
    start_lines, end_lines = starts[:, 1] * _SUBLINES - 0.5, ends[:, 1] * _SUBLINES - 0.5
    first = np.ceil(np.minimum(start_lines, end_lines)).astype(np.int64)
    counts = np.ceil(np.maximum(start_lines, end_lines)).astype(np.int64) - first
    # Edges that cross no line drop out, those without height among them.
    crossing = np.flatnonzero(counts)
    counts, first, y = counts[crossing], first[crossing], start_lines[crossing]
    rise, x = end_lines[crossing] - y, starts[crossing, 0]
    slope = (ends[crossing, 0] - x) / rise
    before = np.cumsum(counts) - counts
    line = np.arange(int(counts.sum())) + np.repeat(first - before, counts)
    x = np.repeat(x - y * slope, counts) + line * np.repeat(slope, counts)
    weight = np.repeat(weights[crossing] * np.sign(rise), counts)
    cell = x.astype(np.int64)
    share = (x - cell) * weight
    place = (line // _SUBLINES) * (width + 1) + cell
    steps = np.bincount(place, weight - share, height * (width + 1))
    steps[1:] += np.bincount(place, share, height * (width + 1))[:-1]
    covered: np.ndarray = steps.reshape(height, width + 1).cumsum(axis=1)[:, :width] / _SUBLINES
    np.clip(covered, 0, 1, out=covered)
    return covered


def _sweep(
    starts: np.ndarray, ends: np.ndarray, weights: np.ndarray, side: tuple[float, float], height: int, width: int
) -> np.ndarray:
    """Cover what a polygon passes over when moved along `side`, as `coverage` does.

    That is the rear face and a quadrilateral an edge. Where two quadrilaterals of one turn meet, the edges between
    them cancel.
    """
    edges = ends - starts
    turns = np.where(edges[:, 0] * side[1] - edges[:, 1] * side[0] < 0, 1.0, -1.0)
    rear_starts, rear_ends = starts + side, ends + side
    every = (
        np.concatenate([starts, rear_starts, ends, starts]),
        np.concatenate([ends, rear_ends, rear_ends, rear_starts]),
        np.concatenate([turns, weights - turns, turns, -turns]),
    )
    return coverage(*every, height, width)


# -------------------------------------------------------------------------------------------------------------- paint
@dataclass(frozen=True)
class Cutout:
    """A painted object: alpha (h, w) float32, colours (3, h, w) float32 0 … 1, and where its corner lies.

    `solid`, (h, w) bool, are the pixels that it owns: those that it covers by half.
    """

    alpha: np.ndarray
    solid: np.ndarray
    colours: np.ndarray
    left: int
    top: int


def cut_out(posed: Pose, centre: tuple[float, float], paint: Paint, light: Light) -> Cutout:
    """Rasterise and paint a posed form whose middle lies at `centre` (x, y) of the image; it may leave the image."""
    x1, y1, x2, y2 = posed.extents
    left, top = math.floor(centre[0] + x1) - 1, math.floor(centre[1] + y1) - 1
    width, height = math.ceil(centre[0] + x2) + 1 - left, math.ceil(centre[1] + y2) + 1 - top
    x0, y0 = centre[0] - left, centre[1] - top
    form = posed.form
    starts = posed.points + np.array([x0, y0])
    ends, weights = starts[form.following], -form.weights if posed.mirrored else form.weights
    alpha, tones = np.zeros((height, width)), np.full((height, width), 0.5)
    if form.depth:
        alpha = _sweep(starts, ends, weights, posed.side, height, width)
    for first, last, tone in form.parts:
        front = coverage(starts[first:last], ends[first:last], weights[first:last], height, width)
        tones += front * (tone - tones)
        alpha = np.minimum(alpha + front, 1.0)
    x, y = np.arange(width) + (0.5 - x0), (np.arange(height) + (0.5 - y0))[:, None]
    u = (posed.back[0, 0] * x + posed.back[0, 1] * y).astype(np.float32)
    v = (posed.back[1, 0] * x + posed.back[1, 1] * y).astype(np.float32)
    solid = alpha >= _SOLID
    shade, gloss = _shading(solid, form.bevel, paint.gloss, light)
    shade *= tones.astype(np.float32)
    colours = texture(paint, u, v) * shade
    colours += gloss
    return Cutout(alpha.astype(np.float32), solid, colours, left, top)


def _shading(solid: np.ndarray, bevel: float, gloss: float, light: Light) -> tuple[np.ndarray, np.ndarray]:
    """Light a silhouette as if it were inflated: (h, w) float32 factor on colour, and added highlight."""
    distance = cv2.distanceTransform(solid.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    reach = max(float(distance.max()) * bevel, 1.5)
    rest = np.maximum(1 - distance / reach, 0)
    soft = 3 + 2 * int(reach / 10)
    surface = cv2.blur(np.sqrt(1 - rest * rest) * reach, (soft, soft))
    across, along = np.zeros_like(surface), np.zeros_like(surface)
    across[:, 1:-1] = (surface[:, :-2] - surface[:, 2:]) * 0.5
    along[1:-1] = (surface[:-2] - surface[2:]) * 0.5
    facing = (across * light.x + along * light.y + light.z) / np.sqrt(across * across + along * along + 1)
    shade = np.minimum(np.maximum(1 + light.strength * (facing - light.z), 0.25), 1.7)
    return shade, np.maximum(facing - 0.85, 0) * (gloss * 5)
