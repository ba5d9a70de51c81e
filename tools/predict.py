"""Draw and save predictions: python tools/predict.py checkpoint=DIR source=FILE|DIR|GLOB|VIDEO out=DIR."""

from __future__ import annotations

import sys

from visionkit.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("predict", sys.argv[1:]))
