"""What the processes of a large sweep do for their speed."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
from resource import RUSAGE_SELF, getrusage
import numpy as np
from gpt2cost.prediction.parallel import keep_freed_memory

def faults():
    before = getrusage(RUSAGE_SELF).ru_minflt
    for _ in range(20):
        arrays = [np.ones(1 << 16) for _ in range(16)]
        del arrays
    return getrusage(RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
keep_freed_memory()
faults()
print(before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have rules of their own")
def test_memory_that_is_freed_is_kept() -> None:
    ran = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    before, kept = map(int, ran.stdout.split())
    assert kept < before / 20
