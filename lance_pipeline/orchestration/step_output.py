"""What steps print, as `dagster.yaml` names the class that captures it."""

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
    """Dagster's manager of what steps print, whose helpers outlive Ctrl-C.

    In a terminal Ctrl-C reaches them too: the one that copies a step's lines to the terminal would end before the step
    has said what it saved, and the one that watches over it would print a stack trace.
    """

    @classmethod
    def from_config_value(cls, inst_data: "ConfigurableClassData | None", config_value: Any) -> Self:
        """Keep what is printed where Dagster keeps it by default: in ``storage`` below ``base_dir``."""
        folder = os.path.join(config_value["base_dir"], "storage")
        return cls(inst_data=inst_data, **{**config_value, "base_dir": folder})

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Iterator["CapturedLogContext"]:
        """Capture what this process prints."""
        with ExitStack() as stack:
            # They inherit it.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                context = stack.enter_context(super().capture_logs(log_key))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            yield context
