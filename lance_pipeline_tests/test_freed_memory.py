"""Freed memory: kept while a training uses it again and again, given back where something else needs it."""

import json
import platform
import subprocess
import sys

import pytest

_KEPT = """
import json, resource
from contextlib import nullcontext
import psutil, torch
from lance_pipeline.freed_memory import keep_freed_memory

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
kept, inside = faults(keep_freed_memory())
outside = psutil.Process().memory_info().rss
print(json.dumps({"plain": plain, "kept": kept, "given_back": inside - outside}))
"""
_GIVEN_BACK = """
import json
import psutil
from lance_pipeline.freed_memory import give_back_freed_memory

blocks = [bytes(1000) for _ in range(100_000)]
# It lies behind the others, so that they are not at the end of the heap.
last = bytes(1000)
blocks.clear()
before = psutil.Process().memory_info().rss
give_back_freed_memory()
print(json.dumps({"given_back": before - psutil.Process().memory_info().rss}))
"""
_SHARED = """
import ctypes, json, os, tempfile, threading
from lance_pipeline.freed_memory import share_freed_memory

share_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
done, threads = threading.Event(), 4 * os.cpu_count()
met = threading.Barrier(threads + 1)

def allocate():
    libc.malloc(1000)
    met.wait()
    done.wait()

for _ in range(threads):
    threading.Thread(target=allocate).start()
met.wait()
with tempfile.NamedTemporaryFile("r") as file:
    report = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    libc.malloc_info(0, report)
    libc.fclose(report)
    arenas = file.read().count("<heap nr=")
done.set()
print(json.dumps({"arenas": arenas, "cores": os.cpu_count()}))
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")


def _told(program: str) -> dict[str, int]:
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(ended.stdout)


def test_freed_memory_is_kept_and_given_back_in_the_end() -> None:
    found = _told(_KEPT)
    assert found["kept"] < found["plain"] / 10
    assert found["given_back"] > 60e6


def test_freed_memory_is_given_back_when_asked_for() -> None:
    assert _told(_GIVEN_BACK)["given_back"] > 60e6


def test_threads_share_as_many_arenas_as_there_are_cores() -> None:
    found = _told(_SHARED)
    assert 1 <= found["arenas"] <= found["cores"]
