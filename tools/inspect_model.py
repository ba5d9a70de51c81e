"""Look into a model: python tools/inspect_model.py task=detect backbone=resnet50 [depth=N] [out=model.png].

Or into a trained one: python tools/inspect_model.py checkpoint=DIR [image=FILE out=DIR].
"""

from __future__ import annotations

import sys

from visionkit.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("inspect_model", sys.argv[1:]))
