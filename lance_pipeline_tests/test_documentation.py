"""The examples in the documentation run as written."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

from lance_pipeline.sources.sample import make_sample

LIBRARY = Path(__file__).parent.parent / "docs" / "library.md"


def test_the_training_example_trains(tmp_path):
    (program,) = [
        code for code in re.findall(r"```python\n(.*?)```", LIBRARY.read_text(), re.DOTALL) if "ImageLoader(" in code
    ]
    make_sample("digits", str(tmp_path / "data" / "raw" / "digits"))
    # It writes to /tmp and to the user's cache.
    program = program.replace("/tmp/", f"{tmp_path}/")
    environment = os.environ | {"LANCE_PIPELINE_CACHE": str(tmp_path / "cache")}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    first, second = ended.stdout.splitlines()
    assert "images=1257" in first
    assert "images=1257" in second
    assert math.isfinite(float(second.split()[1]))
