"""`visionkit doctor`: is this machine fit for visionkit, and if not, what mends it?

Each check is a function that gives findings. What imports packages or computes runs in a process of its own
(`doctor_trials`), since a broken package or driver may end it, or never answer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from visionkit import __version__
from visionkit.doctor_findings import STATES, Check, Finding, lines, run_checks, wants_colour
from visionkit.doctor_machine import folder_checks, machine_checks
from visionkit.doctor_packages import extra_checks, package_checks
from visionkit.doctor_trials import trials
from visionkit.errors import printable
from visionkit.plain_arguments import plain_arguments


def doctor(arguments: Sequence[str] = ()) -> int:
    """Print what is found; return 1 where something is at fault, else 0.

    arguments: of json=true (or --json), device=NAME and run_dir=DIR.

    Raises:
        ConfigError: any other argument.
    """
    given = plain_arguments(arguments, {"json": "false", "device": "auto", "run_dir": "runs"})
    groups: dict[str, Check] = {
        "packages": lambda: run_checks(package_checks()),
        "machine": lambda: run_checks(machine_checks()),
        "folders": lambda: run_checks(folder_checks(Path(given["run_dir"]).expanduser())),
        "trials": lambda: trials(given["device"]),
        "extras": lambda: run_checks(extra_checks()),
    }
    found: dict[str, list[Finding]] = {}
    as_json = given["json"] == "true"
    if not as_json:
        print(f"visionkit {__version__} in {printable(str(Path(__file__).resolve().parent))}", flush=True)
    for name, check in groups.items():
        found[name] = list(check())
        if not as_json:
            print("\n".join(["", name, *lines(found[name], colour=wants_colour(sys.stdout))]), flush=True)
    worst = max((one.state for group in found.values() for one in group), key=STATES.index)
    if as_json:
        told = {group: [asdict(one) for one in ones] for group, ones in found.items()}
        print(json.dumps({"visionkit": __version__, "state": worst, "findings": told}, indent=2))
    else:
        print("\n" + _summary(found))
    return int(worst == "fault")


def _summary(found: Mapping[str, Sequence[Finding]]) -> str:
    counts = {state: sum(one.state == state for ones in found.values() for one in ones) for state in STATES}
    told = [f"{counts[state]} {state}{'s' * (counts[state] != 1)}" for state in ("fault", "warning") if counts[state]]
    if counts["fault"]:
        return f"{' and '.join(told)}: mend the faults first"
    return f"nothing is at fault{f', {told[0]}' if told else ''}"
