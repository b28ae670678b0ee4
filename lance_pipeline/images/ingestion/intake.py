"""One pass over the files that need work: to rows, to the quarantine, and to memory."""

import time

import pyarrow as pa

from lance_pipeline.images.decoding import DECODERS
from lance_pipeline.images.ingestion.plan import Plan
from lance_pipeline.images.ingestion.quarantine import Rejected
from lance_pipeline.images.ingestion.seen import SEEN_SCHEMA, SeenFiles
from lance_pipeline.images.ingestion.stored import StoredSplit
from lance_pipeline.images.ingestion.work import Examined
from lance_pipeline.images.ingestion.writing import Row, SplitWriter
from lance_pipeline.images.rejection import RejectedFileError
from lance_pipeline.images.splitting import Assignment

# What a step has finished is safe from a kill; each step also ends a data file.
STEP_SECONDS = 60.0
STEP_ROWS = 1 << 17
# Python objects take several times the memory of Arrow's columns: they live for this many files.
_CHUNK = 4096
_UNSETTLED = -1


class Intake:
    """Takes examined files one by one and completes the plan by what they turn out to be."""

    def __init__(self, plan: Plan, stored: dict[str, StoredSplit], assignment: Assignment, seen: SeenFiles) -> None:
        self._plan, self._stored, self._assignment, self._seen = plan, stored, assignment, seen
        self._writers: dict[str, SplitWriter] = {}
        self._rows: list[tuple[object, ...]] = []
        self._batches: list[pa.RecordBatch] = []
        self._began = time.monotonic()

    def take(self, one: Examined) -> None:
        """Account for one file.

        Raises:
            InputError: it cannot be written.
        """
        position, path = one.file.position, one.file.path
        if isinstance(one.found, RejectedFileError):
            self._reject(one, one.found.reason, str(one.found))
        elif one.found is not None:
            digest = one.found.measured.pixel_digest
            self._plan.codes[position] = code = self._assignment.code(digest)
            split = self._assignment.splits[code]
            if split in self._stored:
                self._writer(split).add(Row(path, one.file.label, one.size, one.mtime_ns, one.found))
            self._see(one, digest, written=split if split in self._stored else None)
        else:
            split, at = self._plan.stored_row(position, self._assignment)
            self._plan.kept[split][at] = True
            self._see(one, self._stored[split].rows["pixel_digest"][at].as_py())
        if len(self._rows) == _CHUNK:
            self._flush()
            if len(self._batches) * _CHUNK >= STEP_ROWS or time.monotonic() - self._began >= STEP_SECONDS:
                self.finish_step()

    def finish_step(self) -> None:
        """Complete the data files of this step and remember them.

        Raises:
            InputError: they cannot be written.
        """
        self._flush()
        writers, self._writers = list(self._writers.values()), {}
        written = [writer.finish() for writer in writers]
        if self._batches:
            rows = pa.Table.from_batches(self._batches, SEEN_SCHEMA)
            self._seen.append(rows, [one.to_json() for one in written])
        self._plan.written += written
        self._batches, self._began = [], time.monotonic()

    def abandon(self) -> None:
        """Leave the current step unfinished."""
        for writer in self._writers.values():
            writer.abandon()

    def _reject(self, one: Examined, reason: str, detail: str) -> None:
        position, path = one.file.position, one.file.path
        self._plan.rejected[position] = Rejected(path, one.file.label, one.size, reason, detail)
        self._plan.codes[position] = self._assignment.code(one.sha256 or path.encode())
        if one.sha256 is not None:
            self._see(one, None, reason=reason, detail=detail)

    def _see(
        self,
        one: Examined,
        pixel_digest: bytes | None,
        reason: str | None = None,
        detail: str | None = None,
        written: str | None = None,
    ) -> None:
        decoders = DECODERS if reason else None
        # A file that may yet change unseen is remembered with a time that none has, and read again.
        mtime_ns = one.mtime_ns if one.settled else _UNSETTLED
        self._rows.append(
            (one.file.path, one.size, mtime_ns, one.sha256, pixel_digest, reason, detail, decoders, written)
        )

    def _flush(self) -> None:
        if not self._rows:
            return
        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SEEN_SCHEMA, strict=True)]
        self._batches.append(pa.record_batch(arrays, schema=SEEN_SCHEMA))
        self._rows = []

    def _writer(self, split: str) -> SplitWriter:
        if split not in self._writers:
            self._writers[split] = SplitWriter(self._stored[split])
        return self._writers[split]
