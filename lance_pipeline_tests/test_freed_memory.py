"""Freed memory is kept while a training reuses it, and returned to the system afterwards."""

import json
import platform
import subprocess
import sys

import pytest

_KEPT = """
import json, resource
from contextlib import nullcontext
import psutil, torch
from lance_pipeline.freed_memory import keep_freed_memory, manage_freed_memory

def faults(context):
    with context:
        # Warm up.
        for _ in range(10):
            torch.ones(16 << 20)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            torch.ones(16 << 20)
        inside = psutil.Process().memory_info().rss
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, inside

manage_freed_memory()
plain, _ = faults(nullcontext())
kept, inside = faults(keep_freed_memory())
outside = psutil.Process().memory_info().rss
print(json.dumps({"plain": plain, "kept": kept, "returned": inside - outside}))
"""
_GIVEN_BACK = """
import json
import psutil
from lance_pipeline.freed_memory import give_back_freed_memory, manage_freed_memory

manage_freed_memory()
blocks = [bytes(1000) for _ in range(100_000)]
# Allocated after the others, so that they are not at the end of the heap.
last = bytes(1000)
blocks.clear()
before = psutil.Process().memory_info().rss
give_back_freed_memory()
print(json.dumps({"returned": before - psutil.Process().memory_info().rss}))
"""
_SHARED = """
import json, os
from lance_pipeline.freed_memory import manage_freed_memory
from lance_pipeline_tests.arenas import arenas

manage_freed_memory()
print(json.dumps({"arenas": arenas(4 * os.cpu_count()), "cores": os.cpu_count()}))
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="affects only glibc")


def _output(program: str) -> dict[str, int]:
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(ended.stdout)


def test_freed_memory_is_kept_and_returned_at_the_end() -> None:
    found = _output(_KEPT)
    assert found["kept"] < found["plain"] / 10
    assert found["returned"] > 60e6


def test_freed_memory_is_returned_on_request() -> None:
    assert _output(_GIVEN_BACK)["returned"] > 60e6


def test_threads_share_one_arena_per_core() -> None:
    found = _output(_SHARED)
    assert 1 <= found["arenas"] <= found["cores"]
