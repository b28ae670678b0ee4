"""Execution of a run's steps."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from lance_pipeline.orchestration.runtime.dead_runs import end_dead_runs, process_tag
from lance_pipeline.orchestration.runtime.failures import Interrupted
from lance_pipeline.orchestration.runtime.own_process import keep_to_the_user
from lance_pipeline.orchestration.runtime.selection import require_selection
from lance_pipeline.orchestration.runtime.terminal import say_last, stopped_line

if TYPE_CHECKING:
    from dagster._core.execution.context.system import PlanOrchestrationContext
    from dagster._core.execution.plan.plan import ExecutionPlan
    from dagster._core.execution.retries import RetryMode
    from dagster._core.execution.step_dependency_config import StepDependencyConfig

PRELOAD_TAG = ".dagster/lance_pipeline.preload"
"""Tag of a step: comma-separated modules that the fork server imports in advance.

They must not start threads that do not survive a fork, as Lance does.
"""
# The fork server skips modules that do not exist.
_PRELOADED = ["lance_pipeline.orchestration.runtime.fork_server", "dagster._core.storage.sqlite_storage"]


def default_executor() -> dg.ExecutorDefinition:
    """Dagster's multiprocess executor with its configuration, plus a fork server and a clean-up of killed runs.

    Steps are forked from a server that has imported their common modules and those in their `PRELOAD_TAG`. When a run
    starts, runs of the same instance whose process is gone are marked as failed, or as canceled if that was requested,
    and their pool slots are freed. An interrupted run ends as canceled. A run that was marked as canceled from outside
    stays canceled when its steps have stopped.
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
        instance.add_run_tags(run_id, process_tag())
        end_dead_runs(instance, run_id, plan_context.log.warning)
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
