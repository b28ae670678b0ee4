"""What the processes of the pipeline write, and how."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# A process of ours, in which libraries log and fail.
PROCESS = """
import logging, os, sys, threading
from lance_pipeline.orchestration.own_process import keep_to_the_user

logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
keep_to_the_user()
keep_to_the_user()
log = logging.getLogger("urllib3.connectionpool")
log.warning("Retrying (%r) after connection broken: %s", 1, "/x?X-Amz-Signature=letmein1")
log.warning("a dictionary: %(url)s", {"url": "http://me:letmein1@host"})
log.warning("100 %")
log.warning("%d items", "many")
try:
    try:
        raise OSError("http://me:letmein1@host/cause")
    except OSError as error:
        raise ValueError("http://me:letmein1@host/error") from error
except ValueError:
    log.exception("failed")
thread = threading.Thread(target=lambda: int("http://me:letmein1@host/thread"), name="some-thread")
thread.start()
thread.join()
print(oct(os.umask(0)))
raise RuntimeError(os.environ["PLANTED"])
"""


def test_log_lines_and_tracebacks_quote_no_secrets(tmp_path: Path):
    environment = {"LANCE_PIPELINE_DATA": str(tmp_path / "data"), "PLANTED": "http://me:letmein1@host/end"}
    finished = subprocess.run(
        [sys.executable, "-c", PROCESS], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    output = finished.stdout + finished.stderr
    for words in (
        "WARNING Retrying (1) after connection broken: /x?X-Amz-Signature=***",
        "WARNING a dictionary: http://host",
        "WARNING 100 %",
        "--- Logging error ---",
        "OSError: http://host/cause",
        "ValueError: http://host/error",
        "some-thread",
        "http://host/thread",
        "RuntimeError: http://host/end",
        "0o77\n",
    ):
        assert words in output, output
    assert "letmein1" not in output


@pytest.mark.parametrize("package", ["images", "training", "evaluation"])
def test_a_library_keeps_the_umask_and_the_log(package: str):
    code = (
        "import logging, os, importlib, pkgutil; factory = logging.getLogRecordFactory(); os.umask(0o027);"
        f"package = importlib.import_module('lance_pipeline.{package}');"
        "[importlib.import_module(f'{package.__name__}.{one.name}') for one in pkgutil.iter_modules(package.__path__)];"
        "assert logging.getLogRecordFactory() is factory; print(oct(os.umask(0)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "0o27\n"
