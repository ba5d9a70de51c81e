"""Train a model: python tools/train.py task=detect [data=coco data.root=DIR] [key=value …]; --help lists the keys."""

from __future__ import annotations

import sys

from visionkit.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("train", sys.argv[1:]))
