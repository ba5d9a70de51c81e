"""`tools/check_data.py`: the full check of a data set, told on the terminal and, where asked for, on a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from visionkit.data.check import Account, check_across, check_split
from visionkit.data.check_text import account_lines, finding_lines, summary_lines
from visionkit.data.export_coco import refuse_original, renumbered, write_coco
from visionkit.data.validate import errors_of
from visionkit.interfaces import Reader
from visionkit.report.check_page import write_page


def check_data(
    openers: Mapping[str, Callable[[], Reader]], *, page: Path | None = None, fix: Path | None = None
) -> int:
    """Look at all of a data set, print what it holds and what is wrong with it, and return the exit code.

    Args:
        openers: builds the reader of each split, with `on_error="skip"`.
        page: HTML file to write: the same with examples drawn.
        fix: COCO file to write: the one split without what is faulty.

    Returns:
        0 if there is no error (warnings are none), or if `fix` was written; else 2.

    Raises:
        DataError: `page` or `fix` is a file of the data set, or cannot be written.
    """
    accounts = []
    for split, opener in openers.items():
        account = check_split(opener, split)
        accounts.append(account)
        for path in (page, fix):
            if path is not None and account.reader is not None:
                refuse_original(path, account.reader)
        _say(f"== {split}", *account_lines(account), *finding_lines(account.findings))
    across = check_across(accounts)
    findings = [problem for account in accounts for problem in account.findings] + across
    _say("== all splits", *finding_lines(across), *summary_lines(findings))
    if page is not None:
        write_page(page, accounts, across)
        _say(f"wrote {page}")
    if fix is not None and _fixed(accounts[0], fix):
        return 0
    return 2 if errors_of(findings) else 0


def _fixed(account: Account, path: Path) -> bool:
    """Write what is sound of the split, if anything is."""
    if account.reader is None or not account.usable:
        _say(f"{path} was not written: nothing of '{account.split}' can be used")
        return False
    write_coco(account.reader, path, leave_out=account.faulty | account.unlike)
    lines = [
        f"{key} are numbered from 1; a model trained on the original predicts with the original's ids"
        for key in renumbered(account.reader)
    ]
    if account.unlike:
        count = len(account.unlike)
        lines.append(f"images whose objects are not known were left out, for COCO JSON would call them empty: {count}")
    _say(*(f"note: {line}" for line in lines), f"wrote {path}")
    return True


def _say(*lines: str) -> None:
    print("\n".join(lines))
