"""The account of a split as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from visionkit.data.check import Account
from visionkit.data.rules import RULES
from visionkit.data.validate import Problem, errors_of
from visionkit.errors import listed, printable

_SHOWN_OF_RULE = 10


def account_lines(account: Account) -> list[str]:
    """What the split holds: images, objects, and a table of its classes."""
    if account.reader is None:
        return ["could not be opened"]
    shown = listed([f"{width} x {height}" for height, width in sorted(account.sizes)], most=3)
    lines = [f"images: {len(account.reader)}" + (f" ({shown})" if shown else "")]
    if "boxes" in account.reader.fields:
        total, crowds, ignored = account.objects
        lines.append(f"objects: {total}, of them crowds {crowds}, ignored {ignored}")
        lines.append(f"images without objects: {len(account.empty)}")
    lines.append(f"labelled: {', '.join(sorted(account.reader.fields)) or 'nothing'}")
    lines += _table("objects", account.classes) + _table("pixels", account.pixels)
    return lines + [f"note: {printable(note)}" for note in account.notes]


def finding_lines(findings: Sequence[Problem]) -> list[str]:
    """One line for each finding, errors first, rule by rule; of many of one rule the first ones and their count."""
    lines = []
    for problems in by_rule(findings):
        kind = "warning" if problems[0].warning else "error"
        lines += [f"{kind} [{problems[0].rule}] {problem}" for problem in problems[:_SHOWN_OF_RULE]]
        if len(problems) > _SHOWN_OF_RULE:
            lines.append(f"{kind} [{problems[0].rule}] … and {len(problems) - _SHOWN_OF_RULE} more")
    return lines


def summary_lines(findings: Sequence[Problem]) -> list[str]:
    """How often each rule is broken, and what it wants."""
    errors = len(errors_of(findings))
    head = f"errors: {errors}, warnings: {len(findings) - errors}"
    groups = by_rule(findings)
    wide = max((len(problems[0].rule) for problems in groups), default=0)
    return [head] + [
        f"  {'warning' if problems[0].warning else 'error':<7}  {problems[0].rule:<{wide}}  {len(problems):>6}  "
        f"{RULES.get(problems[0].rule, '')}"
        for problems in groups
    ]


def by_rule(findings: Sequence[Problem]) -> list[list[Problem]]:
    """The findings in groups of one rule, errors before warnings, otherwise in the order of their first one."""
    groups: dict[tuple[bool, str], list[Problem]] = {}
    for problem in findings:
        groups.setdefault((problem.warning, problem.rule), []).append(problem)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def _table(what: str, rows: Mapping[str, tuple[int, int]]) -> list[str]:
    names = [printable(name) for name in rows]
    if not names:
        return []
    wide = max([len(name) for name in names] + [5])
    lines = [f"{'class':<{wide}}  {what:>8}  {'images':>8}"]
    return lines + [
        f"{name:<{wide}}  {count:>8}  {images:>8}" for name, (count, images) in zip(names, rows.values(), strict=True)
    ]
