"""The files left to read, kept on disk: the names of millions of files would take more memory than reading them."""

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

from lance_pipeline.errors import InputError
from lance_pipeline.ingest.examination import FILES
from lance_pipeline.storage.columns import Indices

_BATCH_FILES = 1 << 15
# Smaller backlogs stay in memory.
_MEMORY_BYTES = 1 << 20


class Backlog:
    """Files in the order in which to read them.

    Args:
        files: a table with the columns of ``listing.files_to_ingest``.
        todo: the files to read, as positions in the table, in reading order.

    Attributes:
        files: the number of files to read.
        nbytes: their total size.

    Raises:
        InputError: the disk has no room for the list.
    """

    def __init__(self, files: pa.Table, todo: Indices) -> None:
        # Without this, Arrow would join all chunks at every take.
        listed = files.select(FILES[:4]).combine_chunks()
        self.files, self.nbytes = len(todo), int(listed["size"].to_numpy()[todo].sum())
        self._file = tempfile.SpooledTemporaryFile(_MEMORY_BYTES)  # noqa: SIM115 -- closed on leaving
        try:
            self._write(listed, todo)
            self._file.flush()
        except OSError as error:
            with suppress(OSError):
                # Closing flushes again, and fails again.
                self._file.close()
            raise InputError(
                f"cannot write the list of {len(todo)} files to read to a temporary file: {error}. Free space in "
                f"{tempfile.tempdir or 'the temporary folder'}, or set TMPDIR to a folder on another disk."
            ) from error

    def batches(self, max_files: int, max_bytes: int) -> Iterator[pa.RecordBatch]:
        """The files in batches of limited number and total size; each batch has at least one file.

        Yields:
            A batch with the columns path, label, size, mtime_ns and position (in the table).
        """
        self._file.seek(0)
        with pa.ipc.open_stream(pa.PythonFile(self._file, "r")) as batches:
            for batch in batches:
                sizes, start = batch["size"].to_pylist(), 0
                while start < len(batch):
                    total = accumulate(sizes[start : start + max_files])
                    count = max(sum(1 for size in total if size <= max_bytes), 1)
                    # Copied: pickling a slice sends the whole batch to the other process.
                    yield batch.take(pa.array(np.arange(start, start + count)))
                    start += count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _write(self, listed: pa.Table, todo: Indices) -> None:
        schema = listed.schema.append(pa.field("position", pa.int64()))
        with pa.ipc.new_stream(pa.PythonFile(self._file, "w"), schema) as writer:
            for start in range(0, len(todo), _BATCH_FILES):
                some = pa.array(todo[start : start + _BATCH_FILES])
                writer.write_table(listed.take(some).append_column("position", some))
