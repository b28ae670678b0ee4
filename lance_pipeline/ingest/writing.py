"""Writes rows to new data files of a split's dataset, before the commit."""

import json
from typing import Any, NamedTuple, Self

import pyarrow as pa
from lance.fragment import FragmentMetadata

from lance_pipeline.imaging.derived_columns import with_columns_of
from lance_pipeline.ingest.fragments import FragmentWriter
from lance_pipeline.ingest.stored_split import StoredSplit
from lance_pipeline.ingest.totals import Totals
from lance_pipeline.storage.object_store import join_uri
from lance_pipeline.storage.schema import SPLIT_SCHEMA


class Written(NamedTuple):
    """Data files that await a commit to a split, and the totals of their rows."""

    split: str
    mode: str
    fragments: list[FragmentMetadata]
    totals: Totals
    columns: list[str]

    def fits(self, stored: StoredSplit) -> bool:
        """Whether the coming commit can use the data files."""
        return self.mode == stored.mode and self.columns == stored.schema.names

    def to_json(self) -> dict[str, Any]:
        """The form that the seen files remember."""
        return {
            "split": self.split,
            "mode": self.mode,
            "fragments": [fragment.to_json() for fragment in self.fragments],
            "totals": self.totals.model_dump(mode="json"),
            "columns": self.columns,
        }

    def data_files(self, uri: str) -> list[str]:
        """The URIs of the data files, given the dataset's URI."""
        return [join_uri(uri, "data", file.path) for fragment in self.fragments for file in fragment.files]

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Self:
        """The reverse of ``to_json``."""
        fragments = [FragmentMetadata.from_json(json.dumps(fragment)) for fragment in facts["fragments"]]
        totals, columns = Totals.model_validate(facts["totals"]), facts.get("columns", SPLIT_SCHEMA.names)
        return cls(facts["split"], facts["mode"], fragments, totals, columns)


class SplitWriter:
    """Writes rows to new data files of one split."""

    def __init__(self, stored: StoredSplit) -> None:
        stored.accept_rows()
        self._stored = stored
        self._writer = FragmentWriter(stored.uri, stored.schema, mode=stored.mode, version=stored.version)
        self._totals = Totals()

    def add(self, rows: pa.RecordBatch, totals: Totals) -> None:
        """Write rows, whose totals are ``totals``.

        Raises:
            InputError: the rows cannot be written.
        """
        self._totals = self._totals.plus(totals)
        self._writer.write(with_columns_of(rows, self._stored.schema))

    def finish(self) -> Written:
        """Complete the data files and return them.

        Raises:
            InputError: the files cannot be written.
        """
        fragments = self._writer.finish()
        return Written(self._stored.split, self._stored.mode, fragments, self._totals, self._stored.schema.names)

    def abandon(self) -> None:
        """Stop writing; the next ingest removes the files."""
        self._writer.abandon()
