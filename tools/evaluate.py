"""Score a checkpoint: python tools/evaluate.py checkpoint=DIR [data.split=NAME] [run_dir=DIR] [key=value …]."""

from __future__ import annotations

import sys

from visionkit.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("evaluate", sys.argv[1:]))
