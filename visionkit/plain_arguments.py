"""key=value of the commands that need no configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from visionkit.errors import CodedLine, ConfigError, did_you_mean, listed


def plain_arguments(arguments: Sequence[str], defaults: Mapping[str, str]) -> dict[str, str]:
    """Read key=value without the configuration, which may be what is broken; `--json` is json=true.

    Raises:
        ConfigError: a line for each that is not one of `defaults`, and for a json that is neither true nor false.
    """
    values, faults = dict(defaults), list[CodedLine]()
    for text in arguments:
        key, sign, value = "json=true".partition("=") if text == "--json" else text.partition("=")
        if key not in defaults or not (sign and value):
            told = f"{text}: there is no such key{did_you_mean(key, defaults)}; known: {listed(list(defaults))}"
            faults.append(CodedLine(told, "key-unknown"))
        else:
            values[key] = value
    if values.get("json", "true") not in ("true", "false"):
        faults.append(CodedLine(f"json={values['json']}: true or false is wanted", "value-unfit"))
    if faults:
        raise ConfigError.of(faults)
    return values
