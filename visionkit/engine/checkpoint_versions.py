"""The schemas of checkpoints, and what makes an older one into the present one.

1: a run of one process. 2: the manifest has a checksum of its own; random states are by rank; the state tells of an
evaluation that is due, of the number of processes and of the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEMA = 2
KNOWN = (1, SCHEMA)


def migrated_state(state: Mapping[str, Any], schema: int) -> dict[str, Any]:
    """What state.json of a schema says, as the present one would say it. "data" is None: nobody wrote them down."""
    if schema == 1:
        return {**state, "schema": SCHEMA, "evaluation_due": False, "processes": 1, "data": None}
    return dict(state)


def migrated_training(training: Mapping[str, Any], schema: int) -> dict[str, Any]:
    """What training.pt of a schema holds, as the present one would hold it."""
    if schema == 1:
        return {**training, "random": [training["random"]]}
    return dict(training)
