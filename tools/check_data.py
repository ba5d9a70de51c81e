"""Look for faults in a data set: python tools/check_data.py data=coco data.root=DIR [fix=OUT.json]."""

from __future__ import annotations

import sys

from visionkit.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("check_data", sys.argv[1:]))
