"""Runs one contestant once, in a separate process: ``python -m benchmarks.child NAME ROOT OUT TINY``.

TINY is a corpus of a few images for the warm-up. The last line printed has the measurements as JSON.
"""

import json
import sys
import tempfile

from benchmarks.contestants import CONTESTANTS, Clock
from benchmarks.measure import own_peak


def main(name: str, root: str, out: str, tiny: str) -> None:
    """Warm up, then measure."""
    run, clock = CONTESTANTS[name], Clock()
    with tempfile.TemporaryDirectory() as scratch:
        run(tiny, f"{scratch}/tiny", Clock())
        if name in ("unchanged", "changed"):
            run(tiny, f"{scratch}/tiny", Clock())
    images = run(root, out, clock)
    print("\n" + json.dumps({"images": images, "seconds": clock.seconds, "peak": own_peak()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
