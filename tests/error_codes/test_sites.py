"""Where errors are made, as their source says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from visionkit.error_codes.sites import Site, sites

CLASSES = """
class LostError(RunError):
    usual_code = "process-lost"
"""


def site(folder: Path, source: str) -> Site:
    (folder / "classes.py").write_text(CLASSES)
    (folder / "raising.py").write_text(source)
    (found,) = sites(folder.glob("*.py"))
    return found


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        ('raise ConfigError(f"{cfg.fix}: no", code="key-unknown")', "key-unknown", "{fix}: no"),
        ('raise DataError("gone")', None, "gone"),
        ('raise DataError(str(one), [one])', "", ""),
        ('raise errors.RunError("a" "b", code=error.code)', "", "ab"),
        ('lines.append(CodedLine(f"{did_you_mean(a, b)}{listed(c.names)}{f(x)}", "a-b"))', "a-b", "{hint}{names}{…}"),
        ('x = Problem(str(file), "", "is empty", MEND, rule="file-format")', "file-format", "is empty; {…}"),
        ('MEND = "mend it"\nx = Problem(str(file), "", "is empty", MEND, "file-format")', "file-format",
         "is empty; mend it"),
        ('KEY = "a.b"\ndef f():\n    told = f"{KEY}  is {value!r}"\n    raise UserError(printable(told), code="c-d")',
         "c-d", "a.b is {value}"),
        ('def f():\n    told = "of another"\ndef g(told):\n    raise UserError(told, code="c-d")', "c-d", ""),
        ('raise LostError("where")', "process-lost", "where"),
    ],
)  # fmt: skip
def test_code_and_message(tmp_path: Path, source: str, code: str | None, message: str) -> None:
    found = site(tmp_path, source)
    assert (found.code, found.message) == (code, message)


def test_what_the_tools_exit_with(tmp_path: Path) -> None:
    assert site(tmp_path, 'raise LostError("where")').exit == 1
    assert site(tmp_path, 'raise DataError("gone")').exit == 2
