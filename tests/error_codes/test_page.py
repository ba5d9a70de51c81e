"""docs/errors.md is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from visionkit.error_codes import CODES
from visionkit.error_codes.page import COMMAND, page

FILE = Path(__file__).parents[2] / "docs" / "errors.md"


@pytest.fixture(scope="module")
def text() -> str:
    return page()


def test_the_page_is_up_to_date(text: str) -> None:
    assert FILE.read_text(encoding="utf-8") == text, f"renew it: {COMMAND}"


def test_the_page_has_every_code_once_with_its_messages(text: str) -> None:
    assert re.findall(r"^### (.+)$", text, re.MULTILINE) == list(CODES)
    entry = text.split("### loss-not-finite\n")[1].split("###")[0]
    assert "Exit code 1." in entry
    assert f"Mend: {CODES['loss-not-finite'].mend}." in entry
    assert "step {step}: the loss or its gradient is not finite" in entry
    assert text.count("```") % 2 == 0
