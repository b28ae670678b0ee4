"""Execution of a run's steps, and the clean-up of runs whose process was killed."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from lance_pipeline.orchestration.paths import DATA_VARIABLE
from lance_pipeline.orchestration.runtime.failures import Interrupted
from lance_pipeline.orchestration.runtime.own_process import keep_to_the_user
from lance_pipeline.orchestration.runtime.selection import require_selection
from lance_pipeline.orchestration.runtime.terminal import say_last, stopped_line
from lance_pipeline.storage.locking import Lock, locked_file, try_lock

if TYPE_CHECKING:
    from dagster._core.execution.context.system import PlanOrchestrationContext
    from dagster._core.execution.plan.plan import ExecutionPlan
    from dagster._core.execution.retries import RetryMode
    from dagster._core.execution.step_dependency_config import StepDependencyConfig

# Dagster's pages hide tags with this prefix.
_HIDDEN = ".dagster/lance_pipeline"
PROCESS_TAG = f"{_HIDDEN}.process"
PRELOAD_TAG = f"{_HIDDEN}.preload"
"""Tag of a step: comma-separated modules that the fork server imports in advance.

They must not start threads that do not survive a fork, as Lance does.
"""
# The fork server skips modules that do not exist.
_PRELOADED = ["lance_pipeline.orchestration.runtime.fork_server", "dagster._core.storage.sqlite_storage"]
# Kept until this process ends, because a run ends a moment after its executor.
_held: list[Lock] = []


def default_executor() -> dg.ExecutorDefinition:
    """Dagster's multiprocess executor with its configuration, plus a fork server and a clean-up of killed runs.

    Steps are forked from a server that has imported their common modules and those in their `PRELOAD_TAG`. When a run
    starts, runs of the same instance whose process was killed on this host are marked as failed, or as canceled if
    that was requested, and their pool slots are freed. An interrupted run ends as canceled. A run that was marked as
    canceled from outside stays canceled when its steps have stopped.
    """

    @dg.executor(
        name="lance_pipeline_multiprocess",
        config_schema=dg.multiprocess_executor.config_schema.as_field(),
        requirements=dg.multiple_process_executor_requirements(),
    )
    def lance_pipeline_multiprocess(init_context: dg.InitExecutorContext) -> dg.Executor:
        return _TidyExecutor(init_context)

    return lance_pipeline_multiprocess


def _multiprocess_executor(init_context: dg.InitExecutorContext, preloaded: list[str]) -> dg.Executor:
    create = dg.multiprocess_executor.executor_creation_fn
    if create is None:
        raise TypeError("dagster.multiprocess_executor has no executor_creation_fn")
    config = {"start_method": {"forkserver": {"preload_modules": preloaded}}, **init_context.executor_config}
    return create(init_context._replace(executor_config=config))


def _modules_to_preload(execution_plan: "ExecutionPlan") -> list[str]:
    """The modules to import in advance for the steps of a plan."""
    steps = [execution_plan.get_step_by_key(key) for key in execution_plan.step_keys_to_execute]
    return sorted({name for step in steps for name in (step.tags or {}).get(PRELOAD_TAG, "").split(",") if name})


class _TidyExecutor(dg.Executor):
    """Ends dead runs, then executes this run with Dagster's executor."""

    def __init__(self, init_context: dg.InitExecutorContext) -> None:
        self._init_context = init_context
        self._untouched = _multiprocess_executor(init_context, _PRELOADED)

    @property
    def retries(self) -> "RetryMode":
        return self._untouched.retries

    @property
    def step_dependency_config(self) -> "StepDependencyConfig":
        return self._untouched.step_dependency_config

    def execute(
        self, plan_context: "PlanOrchestrationContext", execution_plan: "ExecutionPlan"
    ) -> Iterator[dg.DagsterEvent]:
        keep_to_the_user()
        require_selection(plan_context)
        instance, run_id = plan_context.instance, plan_context.run_id
        instance.add_run_tags(run_id, {PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}"})
        _end_dead_runs(instance, run_id)
        try:
            steps = _multiprocess_executor(self._init_context, [*_PRELOADED, *_modules_to_preload(execution_plan)])
            yield from steps.execute(plan_context, execution_plan)
        except dg.DagsterExecutionInterruptedError:
            raise _cancellation(instance, run_id) from None
        except dg.DagsterSubprocessError as error:
            # Steps stopped before the executor was asked to. As an error this would mark a canceled run as failed.
            if all(
                one.cls_name == dg.DagsterExecutionInterruptedError.__name__ for one in error.subprocess_error_infos
            ):
                raise _cancellation(instance, run_id) from None
            raise


def _cancellation(instance: dg.DagsterInstance, run_id: str) -> Interrupted:
    """The error that ends a run as canceled and reports what was saved, on its page and in the terminal.

    Dagster marks an interrupted run as canceled only if that was requested, and otherwise as failed.
    """
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished and run.status != dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceling(run, "The run was interrupted (Ctrl-C or SIGTERM).")
    line = stopped_line([entry.user_message for entry in instance.all_logs(run_id)])
    say_last(line)
    return Interrupted(line)


def _end_dead_runs(instance: dg.DagsterInstance, run_id: str) -> None:
    """Lock this run's file for as long as this process lives, and end all runs whose file is not locked.

    The operating system frees a lock whenever its process ends. A process id is no substitute: it may have been reused
    or mean nothing in this container. Files of other hosts are not in this folder.
    """
    folder = Path(instance.root_directory, "running")
    folder.mkdir(parents=True, exist_ok=True)
    # One process at a time, otherwise another could find this run's file before it is locked.
    with locked_file(folder / "sweep.lock", DATA_VARIABLE):
        for path in folder.glob("*.run"):
            # A live run holds its lock.
            if lock := try_lock(path, DATA_VARIABLE):
                try:
                    _end_dead_run(instance, path.stem)
                    path.unlink()
                finally:
                    lock.release()
        if lock := try_lock(folder / f"{run_id}.run", DATA_VARIABLE):
            _held.append(lock)


def _end_dead_run(instance: dg.DagsterInstance, run_id: str) -> None:
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished:
        process = f"The process of this run ({run.tags.get(PROCESS_TAG, 'unknown')}) is gone"
        if run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, f"{process}, as it was asked to be.")
        else:
            instance.report_run_failed(
                run,
                f"{process}: it was killed, or the machine went down. Materialize the same assets again: what was "
                "begun resumes where it was.",
            )
    # Also for runs ended from outside: only the run's own process frees its slots.
    instance.event_log_storage.free_concurrency_slots_for_run(run_id)
