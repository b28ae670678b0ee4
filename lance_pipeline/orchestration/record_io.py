"""The IO manager of records."""

import os
from pathlib import Path
from typing import TypeVar

import dagster as dg
from pydantic import ValidationError

from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.failures import clear_failures
from lance_pipeline.orchestration.paths import data_root, make_folder
from lance_pipeline.orchestration.records import Record, TableVersion
from lance_pipeline.orchestration.settled import Settled

AnyRecord = TypeVar("AnyRecord", bound=Record)


class RecordIOManager(Settled, dg.ConfigurableIOManager):
    """Keeps each asset's record as ``<folder>/<asset key>/<run id>.json``.

    The Lance versions that an asset's latest record names are tagged, so that no clean-up removes
    them. An input is the current run's record, or else that of the asset's latest materialization in the
    event log: what the lineage shows, never simply the newest file.
    """

    folder: str | None = None
    """Where the records are kept; ``dagster/records`` in the data folder when unset."""

    def _path(self, key: dg.AssetKey, run_id: str) -> Path:
        folder = Path(self.folder) if self.folder else data_root() / "dagster" / "records"
        return folder.joinpath(*key.path) / f"{run_id}.json"

    def handle_output(self, context: dg.OutputContext, obj: Record) -> None:
        """Write the record, whole or not at all."""
        path = self._path(context.asset_key, context.run_id)
        work = path.with_suffix(".tmp")
        with clear_failures():
            make_folder(path.parent)
            try:
                work.write_text(obj.model_dump_json(indent=2) + "\n")
                os.replace(work, path)
            except OSError as error:
                raise InputError(f"cannot write the record {path}: {error.strerror}. Free some space.") from error
            _keep_tables(context.asset_key, obj)

    def load_input(self, context: dg.InputContext) -> Record:
        """Read the record for an asset's parameter, by the parameter's type."""
        record_type = context.dagster_type.typing_type
        if not (isinstance(record_type, type) and issubclass(record_type, Record)):
            raise TypeError(f"the parameter for {context.asset_key.to_user_string()} must be annotated with its record")
        with clear_failures():
            return self.read(context.instance, context.asset_key, record_type, context.step_context.run_id)

    def read(
        self, instance: dg.DagsterInstance, key: dg.AssetKey, record_type: type[AnyRecord], run_id: str | None = None
    ) -> AnyRecord:
        """The record of ``key`` from the given run, or else from its latest materialization.

        Raises:
            InputError: the asset was never materialized, or its record is gone.
        """
        if run_id is None or not self._path(key, run_id).is_file():
            event = instance.get_latest_materialization_event(key)
            name = key.to_user_string()
            if event is None:
                raise InputError(
                    f"{name} was never materialized. Run: dagster asset materialize -m lance_pipeline.definitions "
                    f"--select 'key:\"{name}\"'"
                )
            run_id = event.run_id
        try:
            return record_type.model_validate_json(self._path(key, run_id).read_text())
        except (OSError, ValidationError) as error:
            raise InputError(
                f"the record of {key.to_user_string()} in {self._path(key, run_id)} is gone or of another version: "
                f"{error}. Materialize the asset again."
            ) from error


def _keep_tables(key: dg.AssetKey, record: Record) -> None:
    from lance_pipeline.images.maintenance import keep_version

    for table in (value for _, value in record if isinstance(value, TableVersion)):
        keep_version(table.uri, table.version, ".".join(["latest", *key.path]))
