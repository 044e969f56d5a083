"""What the process asks of the machine."""

import platform
import subprocess
import sys

import pytest

# A step with a tensor of 64 MB, and the pages that the system had to clear for it.
STEPS = """
import resource
import torch
from hast.runtime import keep_freed_memory

def pages_of_five_steps():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages_of_five_steps()
handed_back = pages_of_five_steps()
assert keep_freed_memory()
for _ in range(3):  # until there is room for the largest
    pages_of_five_steps()
print(handed_back, pages_of_five_steps())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_memory_of_one_step_serves_the_next():
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    handed_back, kept = map(int, done.stdout.split())
    assert kept < handed_back / 10
