"""Export a checkpoint as one file: python tools/export.py checkpoint=DIR format=onnx|torch out=FILE."""

from __future__ import annotations

import sys

from visionkit.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("export", sys.argv[1:]))
