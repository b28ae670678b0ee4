"""The class that captures the output of steps, named in `dagster.yaml`."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager

if TYPE_CHECKING:
    from dagster._core.storage.compute_log_manager import CapturedLogContext
    from dagster._serdes import ConfigurableClassData


class StepOutput(LocalComputeLogManager):
    """Dagster's manager of the output of steps, with helper processes that survive Ctrl-C.

    In a terminal, Ctrl-C reaches the helpers too: the one that copies a step's output to the terminal would exit before
    the step reports what it saved, and the one that supervises it would print a stack trace.
    """

    @classmethod
    def from_config_value(cls, inst_data: "ConfigurableClassData | None", config_value: Any) -> Self:
        """Store the output where Dagster stores it by default: in ``storage`` below ``base_dir``."""
        folder = os.path.join(config_value["base_dir"], "storage")
        return cls(inst_data=inst_data, **{**config_value, "base_dir": folder})

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Iterator["CapturedLogContext"]:
        """Capture the output of this process."""
        with ExitStack() as stack:
            # The helper processes inherit the signal mask.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                context = stack.enter_context(super().capture_logs(log_key))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            yield context
