"""Where caches lie. Apart from what they hold, so that asking for the place imports nothing."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder of all caches: $VISIONKIT_CACHE, else ~/.cache/visionkit."""
    named = os.environ.get("VISIONKIT_CACHE")
    return Path(named).expanduser() if named else Path("~/.cache/visionkit").expanduser()
