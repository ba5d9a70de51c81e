"""Time inference: python tools/benchmark.py task=multitask heads=[classification,detection] [key=value …].

Time the training loader: python tools/benchmark.py loader data=coco128 [against=[ultralytics,torchvision]].
"""

from __future__ import annotations

import sys

from visionkit.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("benchmark", sys.argv[1:]))
