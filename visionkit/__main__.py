"""`python -m visionkit TOOL …`: the command line where the script `visionkit` is not on the path."""

from __future__ import annotations

import sys

from visionkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
