"""Memory that a training uses again and again is cleared by the system once."""

import json
import platform
import subprocess
import sys

import pytest

_PROGRAM = """
import json, resource
from contextlib import nullcontext
import psutil, torch
from lance_pipeline.training.freed_memory import freed_memory_kept

def faults(context):
    with context:
        # The first few still find their place.
        for _ in range(10):
            torch.ones(16 << 20)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            torch.ones(16 << 20)
        inside = psutil.Process().memory_info().rss
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, inside

plain, _ = faults(nullcontext())
kept, inside = faults(freed_memory_kept())
outside = psutil.Process().memory_info().rss
print(json.dumps({"plain": plain, "kept": kept, "given_back": inside - outside}))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_freed_memory_is_kept_and_given_back_in_the_end() -> None:
    ended = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    found = json.loads(ended.stdout)
    assert found["kept"] < found["plain"] / 10
    assert found["given_back"] > 60e6
