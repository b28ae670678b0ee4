"""Stores the outcome of each file of a pass: as a row, in the quarantine, and among the seen files."""

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

# A finished step survives a kill; each step also ends a data file.
STEP_SECONDS = 60.0
STEP_ROWS = 1 << 15


class Intake:
    """Collects the outcomes of files, batch by batch, and completes the plan with them."""

    def __init__(self, plan: Plan, stored: dict[str, StoredSplit], seen: SeenFiles) -> None:
        self._plan, self._stored, self._seen = plan, stored, seen
        self._writers: dict[str, SplitWriter] = {}
        self._batches: list[pa.RecordBatch] = []
        self._began = time.monotonic()

    def add(self, positions: Indices, outcome: Outcome) -> None:
        """Store the outcome of a batch of files, given by their positions in the listing.

        Raises:
            InputError: the rows cannot be written.
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
            InputError: the files cannot be written.
        """
        written = [writer.finish() for writer in self._writers.values()]
        self._writers = {}
        rows = pa.Table.from_batches(self._batches, SEEN_SCHEMA)
        if len(rows):
            self._seen.append(rows, [one.to_json() for one in written])
        self._plan.written += written
        self._batches, self._began = [], time.monotonic()
        # Otherwise the next step would need memory on top of what this one has freed.
        give_back_freed_memory()

    def abandon(self) -> None:
        """Abandon the current step."""
        for writer in self._writers.values():
            writer.abandon()
