"""Which edges of a polygon cross each other?"""

from __future__ import annotations

import numpy as np

_MOST = 2048


def crossing_edges(points: np.ndarray) -> tuple[int, int] | None:
    """Return the first two edges of a polygon that cross, or None: what lies inside it then hangs on who fills it.

    Edges that only touch do not count: polygons of several parts are joined by a way there and back. Of polygons with
    more than 2,048 points, which take too much memory, nothing is said.

    Args:
        points: (N, 2) float64, closed by an edge from the last to the first; edge i begins at point i.
    """
    if not 4 <= len(points) <= _MOST:
        return None
    ends = np.roll(points, -1, axis=0)
    across, down = (ends - points).T[:, :, None]

    def side(others: np.ndarray) -> np.ndarray:
        """(N, N): on which side of the line through edge i point j lies."""
        x, y = points.T[:, :, None]
        found: np.ndarray = np.sign(across * (others[:, 1] - y) - down * (others[:, 0] - x))
        return found

    apart = side(points) * side(ends) < 0
    both = apart & apart.T
    return divmod(int(both.argmax()), len(points)) if both.any() else None
