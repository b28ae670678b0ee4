"""An outage of a store is distinguished from a store that refuses, by errors of the real libraries."""

import errno
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from lance_pipeline.errors import DamagedError, ExplainedError, InputError, ServiceError
from lance_pipeline.sources.raw_files import FileReader
from lance_pipeline.sources.scanning import subfolders
from lance_pipeline.storage import object_store
from lance_pipeline.storage.locking import unwritable
from lance_pipeline.storage.outages import is_outage
from lance_pipeline.storage.table_errors import is_damage, reading
from lance_pipeline.storage.tables import commit_table, find_table, open_table
from lance_pipeline_tests.lacking_servers import answering, refusing

TABLE = "s3://bucket/a.lance"


def write_table() -> None:
    schema = pa.schema([("a", pa.int64())])
    commit_table(TABLE, schema, [pa.record_batch([[1]], schema=schema)], {})


def read_with_lance() -> None:
    with reading(TABLE, 1):
        lance.dataset(TABLE, storage_options=object_store.storage_options(TABLE))


OPERATIONS: dict[str, Callable[[], object]] = {
    "list": lambda: subfolders("s3://bucket/pets"),
    "read a file": lambda: FileReader("s3://bucket/pets", "").read("cat/1.png", 1, 0),
    "find a table": lambda: find_table(TABLE),
    "open a table": lambda: open_table(TABLE),
    "read a table": read_with_lance,
    "write a table": write_table,
}


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries give up at once."""
    monkeypatch.setattr(object_store, "_ATTEMPTS", 1)
    monkeypatch.setattr(object_store, "_RETRIES", {"client_max_retries": "0", "client_retry_timeout": "1"})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("state", ["refused", 503, 403])
def test_errors_of_an_object_store(operation: str, state: str | int, monkeypatch: pytest.MonkeyPatch):
    with refusing() if isinstance(state, str) else answering(state) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(ExplainedError, match="s3://bucket/") as caught:
            OPERATIONS[operation]()
    assert type(caught.value) is (InputError if state == 403 else ServiceError)
    assert "AWS_" in str(caught.value)
    assert caught.value.__cause__ is not None
    if state != 403:
        # Or a table that can be rebuilt would be moved aside.
        assert not is_damage(caught.value)


def test_a_busy_database_is_away_and_a_broken_one_is_not(tmp_path: Path):
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as one, closing(sqlite3.connect(path, timeout=0)) as other:
        one.execute("CREATE TABLE t (a)")
        one.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError) as busy:
            other.execute("INSERT INTO t VALUES (1)")
    assert is_outage(busy.value)
    path.write_bytes(b"no database" * 100)
    with closing(sqlite3.connect(path)) as broken, pytest.raises(sqlite3.DatabaseError) as damaged:
        broken.execute("SELECT * FROM t")
    assert not is_outage(damaged.value)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ESTALE, ServiceError),
        (errno.ENOLCK, ServiceError),
        (errno.ETIMEDOUT, ServiceError),
        (errno.EACCES, InputError),
        (errno.EROFS, InputError),
    ],
)
def test_errors_of_a_network_file_system(number: int, kind: type[ExplainedError]):
    error = OSError(number, os.strerror(number))
    assert type(unwritable("/shared/a.lock", error, "X")) is kind
    # As Lance writes them.
    told = OSError(f"LanceError(IO): Generic LocalFileSystem error: {os.strerror(number)} (os error {number})")
    with pytest.raises(ExplainedError, match=r"/shared/a\.lance") as caught, reading("/shared/a.lance", 1):
        raise told
    assert isinstance(caught.value, ServiceError) == (kind is ServiceError)


def test_damage_and_closed_output_are_no_outage():
    with pytest.raises(DamagedError), reading("/data/timed out (os error 110).lance", 1):
        raise OSError("LanceError(IO): file size is too small")
    assert not is_outage(BrokenPipeError(errno.EPIPE, "Broken pipe"))
