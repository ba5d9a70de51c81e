"""Judge features by a simple classifier: python tools/probe.py data=NAME backbone=NAME weights=FILE [kind=knn]."""

from __future__ import annotations

import sys

from visionkit.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("probe", sys.argv[1:]))
