"""How many arenas glibc's allocator uses."""

import ctypes
import tempfile
import threading


def arenas(threads: int) -> int:
    """The number of glibc's arenas while so many threads have allocated memory, which M_ARENA_MAX limits."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
    done, met = threading.Event(), threading.Barrier(threads + 1)

    def allocate() -> None:
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
        found = file.read().count("<heap nr=")
    done.set()
    return found
