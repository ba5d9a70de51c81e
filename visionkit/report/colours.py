"""The colours of classes, told apart with and without colour blindness."""

from __future__ import annotations

Colour = tuple[int, int, int]
"""RGB, 0 to 255."""

OKABE_ITO: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""The colours that people with and without colour blindness tell apart (Okabe and Ito 2008), without the black."""
BLACK, WHITE, GREY = (0, 0, 0), (255, 255, 255), (128, 128, 128)


def class_colour(label: int) -> Colour:
    """The colour of a class: `OKABE_ITO`, then the same darker, then lighter, and from the 22nd class on again."""
    base = OKABE_ITO[label % len(OKABE_ITO)]
    shade = label // len(OKABE_ITO) % 3
    if shade == 0:
        return base
    return blend(base, BLACK, 0.45) if shade == 1 else blend(base, WHITE, 0.55)


def ink(plate: Colour) -> Colour:
    """Black or white, whichever contrasts more with the plate by WCAG's relative luminance."""
    linear = [(v / 255 / 12.92) if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in plate]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return BLACK if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else WHITE


def blend(colour: Colour, other: Colour, share: float) -> Colour:
    """`colour` with `share` (0 to 1) of `other` in it."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue
