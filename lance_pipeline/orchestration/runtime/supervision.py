"""Steps that end when they are asked to, or when nobody waits for them any more."""

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
# The watcher looks for the executor, and at the run's status, this often, in seconds.
_LOOK = 1.0
_ENDED = {
    dg.DagsterRunStatus.CANCELING: "the run was cancelled",
    dg.DagsterRunStatus.CANCELED: "the run was cancelled",
    dg.DagsterRunStatus.FAILURE: "the run was marked as failed",
}


@contextmanager
def supervised(context: dg.AssetExecutionContext) -> Iterator[Callable[[], str | None]]:
    """Yield what tells why the step is to stop, such as ``SIGTERM``, or None while it is to go on.

    For code that looks at this regularly, and raises ``Stopped`` when it has saved what it needs to go on. Within,
    SIGINT and SIGTERM set the reason and do nothing else, however often they come: Ctrl-C reaches a step twice, from
    the terminal and from its executor. A lost executor sets it too, and a run that was ended from outside. What must
    not be cut short belongs within. Signals are left alone where the step does not run in the main thread. The step's
    log shows the library's warnings.

    Args:
        context: the step's.
    """
    reasons: list[str] = []
    before = {}
    if _in_main_thread():
        for number in _SIGNALS:
            before[number] = signal.signal(number, lambda number, _: reasons.append(signal.Signals(number).name))
    try:
        with library_warnings(context.log), _watched(context, reasons.append):
            yield lambda: reasons[0] if reasons else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interruptible(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Interrupts the step where it is, as Ctrl-C does, if its executor is lost or its run ended from outside.

    For code that looks at nothing and may be cut short anywhere. Where the step does not run in the main thread
    nothing can interrupt it. The step's log shows the library's warnings.

    Args:
        context: the step's.

    Raises:
        dagster.DagsterExecutionInterruptedError: the step was interrupted.
    """

    def interrupt(reason: str) -> None:
        try:
            context.log.warning(f"Interrupting the step: {reason}.")
        finally:
            # Dagster's handler turns it into its exception.
            os.kill(os.getpid(), signal.SIGINT)

    with library_warnings(context.log), _watched(context, interrupt) if _in_main_thread() else nullcontext():
        yield


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _watched(context: dg.AssetExecutionContext, tell: Callable[[str], None]) -> Iterator[None]:
    """Calls ``tell`` from another thread, once, with the first reason to stop that no signal brings."""
    left = threading.Event()

    def watch() -> None:
        while not left.wait(_LOOK):
            reason = _reason_to_stop(context)
            if reason and not left.is_set():
                tell(reason)
                return

    watcher = threading.Thread(target=watch, name="step-watcher", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        left.set()
        watcher.join()


def _reason_to_stop(context: dg.AssetExecutionContext) -> str | None:
    # None in a process of the user's own, which may outlive the shell that started it. The fork server is no parent
    # in this sense: it lives as long as any step does.
    executor = multiprocessing.parent_process()
    if executor is not None and not executor.is_alive():
        return "its executor is gone"
    try:
        run = context.instance.get_run_by_id(context.run.run_id)
    except Exception:
        # A storage that is locked now answers later.
        _logger.exception("Cannot tell whether run %s was ended; the step goes on.", context.run.run_id)
        return None
    return _ENDED.get(run.status) if run else None
