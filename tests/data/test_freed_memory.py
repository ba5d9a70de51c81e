from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from visionkit.data import freed_memory

_FAULTS = """
import resource, runpy, sys
import numpy as np
keep_freed_memory = runpy.run_path(sys.argv[1])["keep_freed_memory"]
{call}
def made():
    return [np.ones(1_200_000, np.uint8) for _ in range(16)]
made()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    made()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_arrays_of_the_next_image_cause_no_page_faults():
    command, file = (sys.executable, "-c"), freed_memory.__file__  # alone: its package takes seconds to import
    without, kept = (
        int(subprocess.run([*command, _FAULTS.format(call=call), file], capture_output=True, check=True).stdout)
        for call in ("", "keep_freed_memory()")
    )
    assert kept < 200 < without
