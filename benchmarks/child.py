"""Runs one contestant once, in a process of its own: ``python -m benchmarks.child NAME ROOT OUT TINY``.

TINY is a corpus of a few images for the warm-up. Prints what was measured as the last line, as JSON.
"""

import json
import re
import sys
import tempfile

from benchmarks.contestants import CONTESTANTS, Clock


def main(name: str, root: str, out: str, tiny: str) -> None:
    """Warm up, then measure."""
    run, clock = CONTESTANTS[name], Clock()
    with tempfile.TemporaryDirectory() as scratch:
        run(tiny, f"{scratch}/tiny", Clock())
        if name in ("unchanged", "changed"):
            run(tiny, f"{scratch}/tiny", Clock())
    images = run(root, out, clock)
    print("\n" + json.dumps({"images": images, "seconds": clock.seconds, "peak": _own_peak()}))


def _own_peak() -> int:
    """The largest resident memory of this process so far, in bytes."""
    with open("/proc/self/status") as file:
        found = re.search(r"VmHWM:\s*(\d+) kB", file.read())
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    main(*sys.argv[1:])
