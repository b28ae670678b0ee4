"""Writes rows to a dataset as they arrive, before any commit."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Full, Queue

import pyarrow as pa
from lance.fragment import FragmentMetadata, write_fragments

from lance_pipeline.errors import ExplainedError
from lance_pipeline.storage.lance_files import make_parent
from lance_pipeline.storage.object_store import storage_options
from lance_pipeline.storage.table_errors import ConflictError, write_error

# Batches that wait for the disk: enough to keep it busy, few enough to fit into memory.
_QUEUED_BATCHES = 2
# Seconds between checks whether the writer has failed.
_CHECK_SECONDS = 0.1


class FragmentWriter:
    """Writes record batches to new data files of a dataset, in its own thread.

    The files belong to no version until their fragments are committed.

    Args:
        uri: the dataset, which need not exist yet.
        schema: the schema of the rows.
        mode: ``append`` to a dataset, ``create`` one, or ``overwrite`` its rows.
        version: the version of the dataset; 0 if there is none.
    """

    def __init__(self, uri: str, schema: pa.Schema, *, mode: str, version: int) -> None:
        self._uri, self._schema, self._mode, self._version = uri, schema, mode, version
        self._batches: Queue[pa.RecordBatch | None] = Queue(_QUEUED_BATCHES)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="fragment-writer")
        self._fragments: Future[list[FragmentMetadata]] = self._pool.submit(self._write)

    def write(self, batch: pa.RecordBatch) -> None:
        """Queue a batch for writing; blocks while the disk is behind.

        Raises:
            InputError: the data files cannot be written.
        """
        self._put(batch)

    def finish(self) -> list[FragmentMetadata]:
        """Wait until everything is written; returns the fragments.

        Raises:
            InputError: the data files cannot be written.
        """
        self._put(None)
        try:
            return self._fragments.result()
        except OSError as error:
            raise write_error(self._uri, error, self._version) from error
        finally:
            self._pool.shutdown()

    def abandon(self) -> None:
        """Stop writing; the next ingest removes the files. Does nothing after ``finish``."""
        with suppress(ExplainedError, ConflictError, OSError):
            self._put(None)
        self._pool.shutdown()

    def _put(self, batch: pa.RecordBatch | None) -> None:
        while not self._fragments.done():
            try:
                self._batches.put(batch, timeout=_CHECK_SECONDS)
            except Full:
                continue
            return
        if (error := self._fragments.exception()) is not None:
            raise write_error(self._uri, error, self._version) if isinstance(error, OSError) else error

    def _write(self) -> list[FragmentMetadata]:
        make_parent(self._uri)
        reader = pa.RecordBatchReader.from_batches(self._schema, self._queued())
        options = storage_options(self._uri)
        return write_fragments(reader, self._uri, schema=self._schema, mode=self._mode, storage_options=options)

    def _queued(self) -> Iterator[pa.RecordBatch]:
        while (batch := self._batches.get()) is not None:
            yield batch
