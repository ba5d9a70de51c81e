"""What other processes take, as Linux tells it."""

from __future__ import annotations

import os
from pathlib import Path


def own_memory(pid: int) -> float:
    """Return the MB of memory that a process shares with no other (its unique set size); nan where none can tell."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("nan")
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))) / 1000


def cpu_seconds(pid: int) -> float:
    """Return the seconds that a process has computed; nan where none can tell."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")
