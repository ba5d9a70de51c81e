"""docs/errors.md, from the codes and from the code that raises them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from visionkit.error_codes import GROUPS, Code
from visionkit.error_codes.sites import Site, sites

COMMAND = "python -m visionkit.error_codes"
_PACKAGE = Path(__file__).parents[1]
_HEAD = f"""# Errors

<!-- Written by `{COMMAND}`; change visionkit/error_codes/ and run it again. -->

An error is told in plain lines: what is wrong and where, then its code and how such a fault is mended.

```text
engine.epoch: there is no such key (did you mean 'engine.epochs'?)
  [key-unknown] correct the name; visionkit TOOL --help lists the keys
```

- The tools end with 2 where something that was given is at fault (nothing has been written then), and with 1 where a
  run that had begun failed. `debug.traceback=true` shows the place in the code, too.
- In code, the errors of `visionkit.errors` have `.code` (`.codes`, where a message tells of several faults) and
  `.mend`; `str(error)` is the message. The words of messages may change from version to version, codes stay.
- A finding of `visionkit check_data` has a code, too: the rule that the data break.

Below, each code with what it means, how it is mended, and the messages that carry it ({{…}} stands for what is found).
"""


def page() -> str:
    """Return docs/errors.md."""
    by_code: dict[str, list[Site]] = {}
    for site in sites(_PACKAGE.rglob("*.py")):
        if site.code:
            by_code.setdefault(site.code, []).append(site)
    contents = [f"- [{name}](#{_anchor(name)})" for name in GROUPS]
    parts = [_part(name, codes, by_code) for name, codes in GROUPS.items()]
    return "\n".join([_HEAD, *contents, "", "\n".join(parts)])


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _part(title: str, codes: Mapping[str, Code], by_code: Mapping[str, Sequence[Site]]) -> str:
    return "\n".join([f"## {title}\n", *(_entry(name, code, by_code.get(name, ())) for name, code in codes.items())])


def _entry(name: str, code: Code, raised: Sequence[Site]) -> str:
    meaning = code.meaning if code.meaning.endswith(".") else f"Broken rule: {code.meaning}."
    exits = sorted({site.exit for site in raised}) or [1 if name == "unexpected" else 2]
    ends = " or ".join(map(str, exits))
    lines = [f"### {name}\n", f"{meaning} Exit code {ends}.\n", f"Mend: {code.mend}.\n"]
    messages = dict.fromkeys(site.message for site in raised if site.message)
    return "\n".join([*lines, *(["```text", *messages, "```\n"] if messages else [])])
