"""`python -m visionkit.error_codes` in a checkout writes docs/errors.md."""

from __future__ import annotations

from pathlib import Path

from visionkit.error_codes.page import page

if __name__ == "__main__":
    file = Path("docs/errors.md")
    file.write_text(page(), encoding="utf-8")
    print(f"written: {file}")
