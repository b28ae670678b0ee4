"""Steps that end when asked to, or when no executor waits for them any more."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import dagster as dg

from lance_pipeline.orchestration.runtime.logs import library_warnings

_logger = logging.getLogger(__name__)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds between two looks at the executor and the run's status.
_LOOK = 1.0
_ENDED = {
    dg.DagsterRunStatus.CANCELING: "the run was cancelled",
    dg.DagsterRunStatus.CANCELED: "the run was cancelled",
    dg.DagsterRunStatus.FAILURE: "the run was marked as failed",
}


@contextmanager
def supervised(context: dg.AssetExecutionContext) -> Iterator[Callable[[], str | None]]:
    """Yield a function that returns the reason to stop, such as ``SIGTERM``, or None while the step should continue.

    For code that polls it regularly, and raises ``Stopped`` once it has saved what it needs to resume. In the context,
    SIGINT and SIGTERM only set the reason, however often they come: Ctrl-C reaches a step twice, from the terminal and
    from its executor. A lost executor and a run ended from outside set it too. Code that must not be interrupted
    belongs in this context. Outside the main thread, signal handlers are left alone. The step's log shows the
    library's warnings.

    Args:
        context: context of the step.
    """
    reasons: list[str] = []
    before = {}
    if _in_main_thread():
        for number in _SIGNALS:
            before[number] = signal.signal(number, lambda number, _: reasons.append(signal.Signals(number).name))
    try:
        with library_warnings(context.log), _reporting_reasons(context, reasons.append):
            yield lambda: reasons[0] if reasons else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interruptible(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Interrupt the step wherever it is, as Ctrl-C does, if its executor is lost or its run is ended from outside.

    For code that does not poll and may be interrupted anywhere. Outside the main thread nothing can interrupt the
    step. The step's log shows the library's warnings.

    Args:
        context: context of the step.

    Raises:
        dagster.DagsterExecutionInterruptedError: the step was interrupted.
    """

    def interrupt(reason: str) -> None:
        try:
            context.log.warning(f"Interrupting the step: {reason}.")
        finally:
            # Dagster's handler raises its own exception for this signal.
            os.kill(os.getpid(), signal.SIGINT)

    with library_warnings(context.log), _reporting_reasons(context, interrupt) if _in_main_thread() else nullcontext():
        yield


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _reporting_reasons(context: dg.AssetExecutionContext, report: Callable[[str], None]) -> Iterator[None]:
    """Call ``report`` once, from another thread, with the first reason to stop that is not a signal."""
    left = threading.Event()

    def watch() -> None:
        while not left.wait(_LOOK):
            reason = _reason_to_stop(context)
            if reason and not left.is_set():
                report(reason)
                return

    watcher = threading.Thread(target=watch, name="step-watcher", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        left.set()
        watcher.join()


def _reason_to_stop(context: dg.AssetExecutionContext) -> str | None:
    # There is none in a user's own process, which may outlive the shell that started it. The fork server does not count
    # as a parent here: it lives as long as any step does.
    executor = multiprocessing.parent_process()
    if executor is not None and not executor.is_alive():
        return "its executor is gone"
    try:
        run = context.instance.get_run_by_id(context.run.run_id)
    except Exception:
        # A storage that is locked now will answer later.
        _logger.exception("Cannot report whether run %s was ended; the step continues.", context.run.run_id)
        return None
    return _ENDED.get(run.status) if run else None
