"""Starting and stopping what `make ui` serves."""

import os
import signal
import socket
from pathlib import Path

import pytest

from lance_pipeline_tests.browser.launcher import HOST, Launcher, await_condition, is_free


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
class TestStopping:
    def test_ctrl_c_ends_all_of_it(self, tmp_path: Path):
        with Launcher(tmp_path, tmp_path / "data") as launcher:
            launcher.await_ready()
            assert not is_free(launcher.port)
            assert launcher.stop(signal.SIGINT) == 0
            _assert_nothing_is_left(launcher)
        assert "Traceback" not in launcher.output

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["terminated", "terminal closed"])
    def test_it_can_be_stopped_while_it_starts(self, tmp_path: Path, number: signal.Signals):
        with Launcher(tmp_path, tmp_path / "data") as launcher:
            await_condition(lambda: launcher.child("ui.web") is not None, 120, "the servers are started")
            assert launcher.stop(number) == 0
            _assert_nothing_is_left(launcher)

    @pytest.mark.parametrize(("words", "name"), [("ui.web", "web server"), ("dagster._daemon", "Dagster daemon")])
    def test_a_server_that_ends_is_named_and_takes_the_other_along(self, tmp_path: Path, words: str, name: str):
        with Launcher(tmp_path, tmp_path / "data") as launcher:
            await_condition(lambda: launcher.child(words) is not None, 120, "the servers are started")
            server = launcher.child(words)
            assert server is not None
            os.kill(server, signal.SIGKILL)
            assert launcher.process.wait(60) == 1
            _assert_nothing_is_left(launcher)
        assert f"the {name} ended with status -9" in launcher.output


def test_a_taken_port_is_named(tmp_path: Path):
    with socket.create_server((HOST, 0)) as listening:
        port = listening.getsockname()[1]
        with Launcher(tmp_path, tmp_path / "data", port=port, options=["--mlflow-port", "5001"]) as launcher:
            assert launcher.process.wait(60) == 1
    assert "--mlflow-port (MLFLOW_PORT) is ignored" in launcher.output
    assert f"port {port} on {HOST} cannot be used" in launcher.output
    assert "Traceback" not in launcher.output


def _assert_nothing_is_left(launcher: Launcher) -> None:
    # A killed process disappears a moment after the signal.
    await_condition(lambda: not launcher.children(), 5, "all of its processes have ended")
    assert is_free(launcher.port)
