"""Writing to an MLflow run."""

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from lance_pipeline.orchestration.records import LanceVersion, Split
from lance_pipeline.orchestration.tracking.run_names import with_result
from lance_pipeline.orchestration.tracking.tracked_dataset import dataset_digest, tracked_dataset
from lance_pipeline.storage.links import link_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

MODEL_FILES = "artifacts"
"""The folder with weights and card inside a logged model's folder."""
_EARLIER_FILES = "model"
PARENT_TAG = "mlflow.parentRunId"
EVALUATED_TAG = "lance_pipeline.evaluated"
"""Tag of an evaluation's run: the digest of the dataset."""


class TrackedRun:
    """An MLflow run to write to.

    Attributes:
        run_id: the run's id in MLflow.
        name: the name that people see.
        experiment_id: id of its experiment.
        url: address of its page in the MLflow UI.
    """

    def __init__(self, client: "MlflowClient", run: "Run", url: str) -> None:
        self.run_id, self.experiment_id, self.url = run.info.run_id, run.info.experiment_id, url
        self.name = run.info.run_name or run.info.run_id
        self.client = client
        self._monitor: SystemMetricsMonitor | None = None

    def log_params(self, params: dict[str, Any]) -> None:
        """Log parameters, each as text."""
        from mlflow.entities import Param

        self.client.log_batch(self.run_id, params=[Param(key, str(value)) for key, value in params.items()])

    def log_tags(self, tags: dict[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def name_result(self, split: str, accuracy: float) -> None:
        """Add the result to the run's name, such as `digits-0007 val 98.9 %`."""
        self.name = with_result(self.name, split, accuracy)
        self.client.update_run(self.run_id, name=self.name)

    def log_metrics(
        self,
        metrics: dict[str, float],
        step: int = 0,
        ended: float | None = None,
        model_id: str | None = None,
        measured_on: tuple[str, LanceVersion] | None = None,
    ) -> None:
        """Log metrics at one step, in one call.

        Args:
            metrics: finite values by name.
            step: such as the epoch.
            ended: Unix time of the measurement; None means now. Metrics sent again with the same time are not
                duplicated.
            model_id: the logged model that the metrics describe.
            measured_on: name and version of the dataset used for the measurement.
        """
        from mlflow.entities import Metric

        at = int((time.time() if ended is None else ended) * 1000)
        name, data = measured_on or (None, None)
        digest = data and dataset_digest(data)
        entities = [Metric(key, value, at, step, model_id, name, digest) for key, value in metrics.items()]
        self.client.log_batch(self.run_id, metrics=entities)

    def log_dataset(self, name: str, context: str, split: Split) -> None:
        """Log one version of a Lance dataset as an input of the run."""
        from mlflow.entities import DatasetInput, InputTag

        tags = {
            "mlflow.data.context": context,
            "lance.version": str(split.data.version),
            "lance.fingerprint": split.data.fingerprint,
        }
        entity = DatasetInput(
            dataset=tracked_dataset(name, split), tags=[InputTag(key, value) for key, value in tags.items()]
        )
        self.client.log_inputs(self.run_id, datasets=[entity])

    def log_evaluation(self, name: str, split_name: str, split: Split, figures: dict[str, float]) -> None:
        """Log the results of evaluating the run's model on a dataset, as metrics of the logged model.

        MLflow accepts these only from a run. They get a run of their own, as a child of the training's run: its charts
        would otherwise be cluttered with series of one point. An existing run for this version of the dataset is kept
        if it has all of the figures.

        Args:
            name: name of the dataset.
            split_name: such as ``test``.
            split: the split's record.
            figures: the metrics, including ``accuracy``.
        """
        digest = dataset_digest(split.data)
        same = f"tags.`{PARENT_TAG}` = '{self.run_id}' and tags.`{EVALUATED_TAG}` = '{digest}'"
        there = self.client.search_runs([self.experiment_id], same)
        if any(one.info.status == "FINISHED" and figures.keys() <= one.data.metrics.keys() for one in there):
            return
        for one in there:
            # Left by an evaluation that lost the server.
            if one.info.status == "RUNNING":
                self.client.delete_run(one.info.run_id)
        tags = {PARENT_TAG: self.run_id, EVALUATED_TAG: digest}
        made = self.client.create_run(self.experiment_id, run_name=self.name, tags=tags)
        evaluation = TrackedRun(self.client, made, self.url)
        evaluation.name_result(split_name, figures["accuracy"])
        evaluation.log_dataset(name, f"evaluation on {split_name}", split)
        outputs = self.client.get_run(self.run_id).outputs
        model_id = next((output.model_id for output in outputs.model_outputs), None) if outputs else None
        evaluation.log_metrics(figures, model_id=model_id, measured_on=(name, split.data))
        evaluation.end("FINISHED")

    def log_file(self, data: bytes, name: str) -> None:
        """Log bytes as an artifact of the given path."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            path.write_bytes(data)
            parent = str(Path(name).parent)
            self.client.log_artifact(self.run_id, str(path), None if parent == "." else parent)

    def log_model_files(self, model_id: str, folder: Path) -> None:
        """Log the files of a logged model, as hard links if MLflow stores them on this disk."""
        place = local_folder(self.client.get_logged_model(model_id).artifact_location)
        if place is None:
            self.client.log_model_artifacts(model_id, str(folder))
            return
        for path in (path for path in folder.rglob("*") if path.is_file()):
            link_file(path, place / path.relative_to(folder))

    def download_model(self, folder: Path) -> Path:
        """Download the weights and the card of the run's model; returns their folder below ``folder``.

        Raises:
            MlflowException: the run has none, or MLflow is unreachable.
        """
        from mlflow.artifacts import download_artifacts

        outputs = self.client.get_run(self.run_id).outputs
        for model_id in (output.model_id for output in (outputs.model_outputs if outputs else ())):
            if not self.client.list_logged_model_artifacts(model_id, MODEL_FILES):
                continue
            source = f"{self.client.get_logged_model(model_id).artifact_location}/{MODEL_FILES}"
            uri = self.client.tracking_uri
            return Path(download_artifacts(artifact_uri=source, dst_path=str(folder), tracking_uri=uri))
        # The place used by earlier versions of this package.
        return Path(self.client.download_artifacts(self.run_id, _EARLIER_FILES, str(folder)))

    def watch_system(self) -> None:
        """Log the load of processors, memory, disk, network and GPUs until the run ends, in a thread of MLflow's.

        ``MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL`` sets the seconds between two points (10).
        """
        self._monitor = _system_monitor(self.run_id, self.client.tracking_uri)
        self._monitor.start()

    def kill_others(self, tags: dict[str, str]) -> None:
        """Mark the experiment's other runs with all these tags as KILLED if they still count as running."""
        for run in self.client.search_runs([self.experiment_id], "attributes.status = 'RUNNING'"):
            if run.info.run_id != self.run_id and tags.items() <= run.data.tags.items():
                self.client.set_terminated(run.info.run_id, "KILLED")

    def end(self, status: str) -> None:
        """Set the final status: FINISHED, FAILED or KILLED."""
        if self._monitor is not None:
            self._monitor.finish()
        self.client.set_terminated(self.run_id, status)


def local_folder(artifact_uri: str | None) -> Path | None:
    """The folder on this host in which MLflow stores these artifacts; None if a server or object store has them."""
    place = urlsplit(artifact_uri or "")
    if place.scheme not in ("", "file") or place.netloc not in ("", "localhost") or not place.path:
        return None
    return Path(unquote(place.path) if place.scheme else place.path).absolute()


def _system_monitor(run_id: str, tracking_uri: str) -> "SystemMetricsMonitor":
    """A monitor that survives outages of the server and never logs a step twice.

    Raises:
        MlflowException: the server does not report the run's latest step.
    """
    from mlflow import MlflowClient
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    class Monitor(SystemMetricsMonitor):
        def _get_next_logging_step(self, run_id: str) -> int:
            # MLflow's own method starts at 0 when the server does not respond.
            data = MlflowClient(self._tracking_uri).get_run(run_id).data
            latest = data._metric_objs  # noqa: SLF001 - as MLflow itself does; a whole series would be long
            return 1 + max((one.step for one in latest if one.key.startswith(self._metrics_prefix)), default=-1)

        def monitor(self) -> None:
            # MLflow's own monitor gives up the first time the server does not respond.
            while not self._shutdown_event.is_set():
                super().monitor()
                self._shutdown_event.wait(self.sampling_interval)

        def publish_metrics(self, metrics: dict[str, float]) -> None:
            step = self._logging_step
            try:
                super().publish_metrics(metrics)
            finally:
                # Rejected metrics are kept with their step and sent with the next ones.
                self._logging_step = step + 1

    return Monitor(run_id, resume_logging=True, tracking_uri=tracking_uri)
