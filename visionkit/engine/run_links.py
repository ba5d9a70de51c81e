"""Links in a run folder: one that came from elsewhere may hold some through which a resumed run would write there."""

from __future__ import annotations

from pathlib import Path

from visionkit.errors import UserError, printable


def refuse_links_out(folder: Path) -> None:
    """Refuse a run folder with a link, at any depth, that leads out of it; those inside, such as `last`, are its own.

    Raises:
        UserError: naming the first such link.
    """
    root = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not _leads_inside(path, root):
            fault = f"{path}: is a link that leads out of the run folder, and a resumed run would write through it"
            raise UserError(printable(f"{fault}; put what it leads to in its place"), code="link-refused")


def _leads_inside(link: Path, root: Path) -> bool:
    try:
        return link.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link to itself
        return False
