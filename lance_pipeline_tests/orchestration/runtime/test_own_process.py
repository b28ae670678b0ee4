"""Output of the pipeline's own processes: file modes, logs and warnings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lance_pipeline_tests.conftest import PLAIN_PACKAGES, Shell

QUIET = ("PYTHONWARNINGS", "MLFLOW_LOGGING_LEVEL")
# One of the pipeline's processes, in which libraries log and fail.
PROCESS = """
import logging, os, sys, threading
from lance_pipeline.orchestration.runtime.own_process import keep_to_the_user

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


@pytest.mark.parametrize("package", PLAIN_PACKAGES)
def test_a_library_keeps_umask_log_and_warnings(package: str):
    code = (
        "import logging, os, importlib, pkgutil, warnings; factory = logging.getLogRecordFactory(); os.umask(0o027);"
        f"package = importlib.import_module('lance_pipeline.{package}');"
        "[importlib.import_module(f'{package.__name__}.{one.name}') for one in pkgutil.iter_modules(package.__path__)];"
        "assert logging.getLogRecordFactory() is factory;"
        "assert ('ignore', None, Warning, None, 0) not in warnings.filters;"
        f"assert not os.environ.keys() & set({QUIET}); print(oct(os.umask(0)))"
    )
    inherited = {name: value for name, value in os.environ.items() if name not in QUIET}
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, env=inherited, capture_output=True, text=True, check=True).stdout == "0o27\n"


WARNING = """
import subprocess, sys, warnings
from lance_pipeline.orchestration.runtime.own_process import keep_to_the_user

keep_to_the_user()
warnings.warn("of a library")
subprocess.run([sys.executable, "-c", "import warnings; warnings.warn('of a child')"], check=True)
"""


@pytest.mark.parametrize(("options", "shown"), [((), False), (("-W", "default"), True)])
def test_warnings_of_libraries_are_for_those_who_ask(options: tuple[str, ...], shown: bool):
    environment = {name: value for name, value in os.environ.items() if name not in QUIET}
    command = [sys.executable, *options, "-c", WARNING]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ("of a library" in finished.stderr) == shown
    # With an option of the parent, the child's warnings are outside this package's control.
    assert shown or finished.stderr == ""


@pytest.mark.parametrize("selection", ["digits/lance_trian", "key:(("])
def test_a_selection_that_is_wrong_has_no_stack_trace(selection: str, shell: Shell):
    finished = shell.materialize(selection)
    assert finished.returncode != 0
    assert "Traceback" not in finished.stdout + finished.stderr
    assert selection in finished.stderr
