"""One pass over the files that need work: to rows, to the quarantine, and to memory."""

import time

import numpy as np
import pyarrow as pa

from lance_pipeline.freed_memory import give_back_freed_memory
from lance_pipeline.ingest.examination import Outcome
from lance_pipeline.ingest.plan import Plan
from lance_pipeline.ingest.seen_files import SeenFiles
from lance_pipeline.ingest.stored_split import StoredSplit
from lance_pipeline.ingest.writing import SplitWriter
from lance_pipeline.sources.split_assignment import UNKNOWN
from lance_pipeline.storage.columns import Indices
from lance_pipeline.storage.schema import SEEN_SCHEMA

# What a step has finished is safe from a kill; each step also ends a data file.
STEP_SECONDS = 60.0
STEP_ROWS = 1 << 15


class Intake:
    """Takes what became of the files, stretch by stretch, and completes the plan by it."""

    def __init__(self, plan: Plan, stored: dict[str, StoredSplit], seen: SeenFiles) -> None:
        self._plan, self._stored, self._seen = plan, stored, seen
        self._writers: dict[str, SplitWriter] = {}
        self._batches: list[pa.RecordBatch] = []
        self._began = time.monotonic()

    def take(self, positions: Indices, outcome: Outcome) -> None:
        """Account for a stretch of files, given by their positions in the listing.

        Raises:
            InputError: they cannot be written.
        """
        plan, same = self._plan, outcome.codes == UNKNOWN
        plan.codes[positions] = np.where(same, plan.at_code[positions], outcome.codes)
        plan.keep(positions[same])
        plan.rejected |= {int(positions[place]): one for place, one in outcome.rejected.items()}
        for split, (rows, totals) in outcome.rows.items():
            if split not in self._writers:
                self._writers[split] = SplitWriter(self._stored[split])
            self._writers[split].add(rows, totals)
        self._batches.append(outcome.seen)
        if sum(map(len, self._batches)) >= STEP_ROWS or time.monotonic() - self._began >= STEP_SECONDS:
            self.finish_step()

    def finish_step(self) -> None:
        """Complete the data files of this step and remember them.

        Raises:
            InputError: they cannot be written.
        """
        written = [writer.finish() for writer in self._writers.values()]
        self._writers = {}
        rows = pa.Table.from_batches(self._batches, SEEN_SCHEMA)
        if len(rows):
            self._seen.append(rows, [one.to_json() for one in written])
        self._plan.written += written
        self._batches, self._began = [], time.monotonic()
        # Or the next step would be added to the memory that this one has used.
        give_back_freed_memory()

    def abandon(self) -> None:
        """Leave the current step unfinished."""
        for writer in self._writers.values():
            writer.abandon()
