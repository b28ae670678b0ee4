"""The IO manager for records."""

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import dagster as dg
from pydantic import Field

from lance_pipeline.errors import DamagedError, InputError
from lance_pipeline.orchestration.commands import materialize_command
from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.paths import make_folder
from lance_pipeline.orchestration.records import Record, TableVersion
from lance_pipeline.orchestration.runtime.databases import as_explained_error
from lance_pipeline.orchestration.runtime.failures import clear_failures
from lance_pipeline.orchestration.runtime.logs import library_warnings
from lance_pipeline.orchestration.settled import Settled
from lance_pipeline.storage.whole_files import write_whole

AnyRecord = TypeVar("AnyRecord", bound=Record)
_logger = logging.getLogger(__name__)
_METADATA = "record"


class RecordIOManager(Settled, dg.ConfigurableIOManager):
    """Keeps each asset's record as ``<folder>/<asset key>/<run id>.json``, and in the materialization's metadata.

    A record whose file is damaged or missing is restored from the metadata. The Lance versions in an asset's latest
    record are tagged, so that no clean-up removes them. An input is the current run's record, or else that of the
    asset's latest materialization in the event log, as the lineage shows, never simply the newest file.
    """

    folder: str | None = Field(
        default=None,
        description="Local folder of the records; that of the resource `lance_store` with its defaults when unset.",
    )

    def asset_folder(self, key: dg.AssetKey) -> Path:
        """The folder of the asset's records, which are named after their runs."""
        return LanceStore(records=self.folder).records_root.joinpath(*key.path)

    def _path(self, key: dg.AssetKey, run_id: str) -> Path:
        return self.asset_folder(key) / f"{run_id}.json"

    def handle_output(self, context: dg.OutputContext, obj: Record) -> None:
        """Write the record atomically."""
        path, document = self._path(context.asset_key, context.run_id), obj.to_json()
        with clear_failures(context):
            _write(path, document)
            _keep_tables(context.asset_key, obj)
        context.add_output_metadata({_METADATA: dg.MetadataValue.json(json.loads(document))})

    def load_input(self, context: dg.InputContext) -> Record:
        """Read the record for an asset's parameter, using the parameter's type."""
        record_type = context.dagster_type.typing_type
        if not (isinstance(record_type, type) and issubclass(record_type, Record)):
            raise TypeError(f"the parameter for {context.asset_key.to_user_string()} must be annotated with its record")
        with clear_failures(context), library_warnings(context.log):
            return self.read(context.instance, context.asset_key, record_type, context.step_context.run_id)

    def read(
        self, instance: dg.DagsterInstance, key: dg.AssetKey, record_type: type[AnyRecord], run_id: str | None = None
    ) -> AnyRecord:
        """The record of ``key`` from the given run, or else from its latest materialization.

        Raises:
            InputError: the asset was never materialized, or its record is unavailable.
        """
        if run_id is None or not self._path(key, run_id).is_file():
            run_id = _latest(instance, key).run_id
        path = self._path(key, run_id)
        try:
            return record_type.from_json(path.read_bytes(), str(path), f"run: {materialize_command(key)}")
        except (OSError, DamagedError) as error:
            reason = f"cannot read the record {path}: {error.strerror}" if isinstance(error, OSError) else str(error)
            restored = _from_metadata(instance, key, run_id, record_type)
            if restored is None:
                raise DamagedError(f"{reason}. Run: {materialize_command(key)}") from error
        _logger.warning("%s. It is restored from the metadata of the materialization.", reason)
        _write(path, restored.to_json())
        return restored


def _write(path: Path, document: bytes) -> None:
    make_folder(path.parent)
    try:
        write_whole(path, document)
    except OSError as error:
        raise as_explained_error(error) or InputError(f"cannot write the record {path}: {error.strerror}.") from error


def _latest(instance: dg.DagsterInstance, key: dg.AssetKey) -> dg.EventLogEntry:
    try:
        event = instance.get_latest_materialization_event(key)
    except Exception as error:
        if explanation := as_explained_error(error):
            raise explanation from error
        raise DamagedError(
            f"Dagster's event log cannot be read for {key.to_user_string()} is ({type(error).__name__}: {error}). "
            f"Run: {materialize_command(key)}"
        ) from error
    if event is None:
        raise InputError(f"{key.to_user_string()} was never materialized. Run: {materialize_command(key)}")
    return event


def _from_metadata(
    instance: dg.DagsterInstance, key: dg.AssetKey, run_id: str, record_type: type[AnyRecord]
) -> AnyRecord | None:
    """The record in the metadata of the latest materialization, if it is from this run and has an intact record."""
    event = _latest(instance, key)
    made = event.asset_materialization
    return None if event.run_id != run_id or made is None else record_of(made, record_type)


def record_of(made: dg.AssetMaterialization, record_type: type[AnyRecord]) -> AnyRecord | None:
    """The record in the metadata of a materialization, if it has an intact one."""
    if _METADATA not in made.metadata:
        return None
    document = json.dumps(made.metadata[_METADATA].value).encode()
    with suppress(DamagedError):
        return record_type.from_json(document, f"the materialization of {made.asset_key.to_user_string()}")
    return None


def _keep_tables(key: dg.AssetKey, record: Record) -> None:
    from lance_pipeline.ingest.maintenance import keep_version

    for table in (value for _, value in record if isinstance(value, TableVersion)):
        keep_version(table.uri, table.version, ".".join(["latest", *key.path]))
