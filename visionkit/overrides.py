"""What was typed, such as "task=detect" or "data.root=/my data", read one by one so that every fault is found."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from visionkit.config_checks import shown
from visionkit.config_tools import PATH_KEYS
from visionkit.errors import CodedLine, did_you_mean, listed

CHOSEN_IN: Mapping[str, tuple[str, ...] | None] = {
    "train": None,
    "benchmark": None,
    "benchmark loader": None,
    "evaluate": ("data",),
    "predict": (),
    "export": (),
    "demo": (),
    "check_data": ("task", "data"),
    "inspect_model": None,
    "inspect_model checkpoint=": (),
    "probe": None,
    "probe checkpoint=": ("data",),
    "probe train=": (),
}
"""The groups of which a tool takes a choice; None: all."""


def variant(tool: str, overrides: Sequence[str]) -> str:
    """The tool as the tables of `CHOSEN_IN` and `SCHEMAS` have it: with a checkpoint, say, some take fewer keys."""
    given = {text.lstrip("+").partition("=")[0] for text in overrides if "=" in text}
    return next(
        (f"{tool} {key}=" for key in ("train", "checkpoint") if key in given and f"{tool} {key}=" in CHOSEN_IN), tool
    )


def read_overrides(
    tool: str, overrides: Sequence[str], known: Mapping[str, list[str]]
) -> tuple[dict[str, str], dict[str, Any], list[CodedLine]]:
    """Return the group choices and the values by key, and a line for each override that is neither.

    known: the choices of each group.
    """
    choices: dict[str, str] = {}
    values: dict[str, Any] = {}
    faults: list[CodedLine] = []
    parser = OverridesParser.create()
    for text in overrides:
        quoted = quote_path(text)
        try:
            override = parser.parse_override(quoted)
        except HydraException:
            what = "key=value is wanted" if "=" not in text else "this cannot be read; put the value in quotes"
            faults.append(CodedLine(f"{text}: {what}", "argument-form"))
            continue
        key = override.key_or_group
        fault = _form_fault(override, text) or (_choice_fault(tool, override, known) if key in known else None)
        if fault is not None:
            faults.append(fault)
        elif key == "data.sets":
            told = f"{text}: choose the sets with data=[a, b]; a key of one is data.sets.<name>.<key>"
            faults.append(CodedLine(told, "argument-form"))
        elif key == "data" and isinstance(value := override.value(), list):
            choices[key], values["data.sets"] = "mixture", {shown(name): {} for name in value}
        elif key in known:
            choices[key] = shown(override.value())
        else:
            values[key] = override.value()
    return choices, values, faults


def names_folder_alone(choices: Mapping[str, str], values: Mapping[str, Any]) -> bool:
    """Whether data.root was typed without data=, which means data=auto."""
    return values.get("data.root") is not None and not {"data", "experiment"} & choices.keys()


def quote_path(text: str) -> str:
    """Put the value of an override into quotes when its key holds a path, which Hydra's grammar would take apart."""
    key, sign, value = text.partition("=")
    name = key.lstrip("+")
    if not sign or not (name in PATH_KEYS or re.match(r"data(\.sets\.[^.]+)?\.(root$|annotations\.)", name)):
        return text
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if is_quoted or value in ("", "null", "???") or re.match(r"\{.*\}$|\$\{", value):
        return text
    value = str(Path(value).expanduser()) if value.startswith("~") else value
    return f"{key}='{_escaped(value)}'"


def _escaped(value: str) -> str:
    """Escape quotes as Hydra reads them: backslashes count only in front of a quote."""
    with_quotes = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", value)
    return re.sub(r"(\\+)$", lambda match: match[1] * 2, with_quotes)


def _form_fault(override: Override, text: str) -> CodedLine | None:
    if override.is_delete():
        told = f"{text}: keys cannot be removed; give {override.key_or_group}=null where null is allowed"
        return CodedLine(told, "argument-form")
    if override.is_sweep_override():
        return CodedLine(
            f"{text}: several values need --multirun; as one list they are written [a, b]", "argument-form"
        )
    if override.package is not None:
        return CodedLine(f"{text}: choose with {override.key_or_group}=NAME, without @", "argument-form")
    return None


def _choice_fault(tool: str, override: Override, known: Mapping[str, list[str]]) -> CodedLine | None:
    group, value = override.key_or_group, override.value()
    allowed = CHOSEN_IN[tool]
    if allowed is not None and group not in allowed:
        named = tool.replace(" ", " with ", 1) if tool.endswith("=") else tool
        takes = f"; it takes {listed(allowed)}" if allowed else ""
        return CodedLine(f"{group}={shown(value)}: {named} takes no {group}{takes}", "key-not-taken")
    if group == "data" and isinstance(value, list):
        sets = [name for name in known[group] if name != "mixture"]
        wrong = [shown(name) for name in value if shown(name) not in sets]
        if not wrong and len(value) == len({shown(name) for name in value}) > 0:
            return None
        fault = f"there is no {wrong[0]}{did_you_mean(wrong[0], sets)}" if wrong else "name each set once"
        return CodedLine(f"data={shown(value)}: {fault}; known: {listed(sets, 20)}", "choice-unknown")
    if group in ("head", "merge"):
        told = f"{group}={shown(value)}: {group}s are chosen by {group}s=[{listed(known[group])}]"
        return CodedLine(told, "argument-form")
    if isinstance(value, Mapping | list):
        told = (
            f"{group}={shown(value)}: a name is wanted ({listed(known[group], 20)}); single keys are {group}.KEY=VALUE"
        )
        return CodedLine(told, "value-unfit")
    name = shown(value)
    if name in known[group] or (group == "experiment" and value is None):
        return None
    told = (
        f"{group}={name}: there is no such {group}{did_you_mean(name, known[group])}; known: {listed(known[group], 20)}"
    )
    return CodedLine(told, "choice-unknown")


def single_runs(overrides: Sequence[str]) -> list[list[str]]:
    """Return, for a sweep such as ["seed=0,1", "optim.lr=0.1,0.2"], runs in which each single value occurs once."""
    parser = OverridesParser.create()
    values: list[list[str]] = []
    for text in overrides:
        try:
            override = parser.parse_override(text)
            swept = override.is_sweep_override()
            values.append(
                [f"{override.get_key_element()}={one}" for one in override.sweep_string_iterator()] if swept else [text]
            )
        except HydraException:
            values.append([text])
    longest = max((len(one) for one in values), default=1)
    return [[one[min(i, len(one) - 1)] for one in values] for i in range(longest)]


def for_sweep(overrides: Sequence[str], known: Collection[str]) -> list[str]:
    """Return overrides as Hydra takes them in a sweep: paths quoted unless they hold a comma, keys free to be new."""
    typed = {text.partition("=")[0].lstrip("+"): text for text in overrides}
    alone = names_folder_alone(typed, {"data.root": typed.get("data.root")})
    texts = [text if "," in text else quote_path(text) for text in (*overrides, *(["data=auto"] if alone else []))]
    return [text if text.partition("=")[0] in known else f"++{text.lstrip('+')}" for text in texts]
