"""Try a checkpoint on your own images, on a page of this machine: python tools/demo.py checkpoint=DIR|FILE.onnx."""

from __future__ import annotations

import sys

from visionkit.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("demo", sys.argv[1:]))
