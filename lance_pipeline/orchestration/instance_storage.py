"""The storage class of the Dagster instance, named in `dagster.yaml`."""

from typing import TYPE_CHECKING, Self

import click
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage

from lance_pipeline.orchestration.runtime.databases import as_explained_error
from lance_pipeline.storage.full_disk import free_bytes, full_disk

if TYPE_CHECKING:
    from dagster._core.storage.sqlite_storage import SqliteStorageConfig
    from dagster._serdes import ConfigurableClassData


# A run starts by writing 300 KB of snapshots and events, and cannot start with less free space.
_LEAST = 400_000


class ExplainedSqliteStorage(DagsterSqliteStorage):
    """Dagster's SQLite storage, with clear errors for a full disk or a damaged database on opening.

    Dagster's commands open their instance before they load any code.
    """

    @classmethod
    def from_config_value(cls, inst_data: "ConfigurableClassData", config_value: "SqliteStorageConfig") -> Self:
        """Open the databases below ``base_dir``.

        Raises:
            ClickException: the disk is full or a database is damaged; Dagster's commands show its message alone.
        """
        try:
            if free_bytes(config_value["base_dir"]) < _LEAST:
                raise full_disk(config_value["base_dir"])
            return cls.from_local(inst_data=inst_data, **config_value)
        except Exception as error:
            if explanation := as_explained_error(error):
                raise click.ClickException(str(explanation)) from error
            raise
