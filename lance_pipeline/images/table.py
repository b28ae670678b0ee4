"""Versioned Lance tables that carry their own facts.

Everything that this package writes (listings, splits, predictions) is such a table: rows, and a
small JSON document of facts in the schema's metadata, committed together as one version.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import lance
import pyarrow as pa
from lance.fragment import FragmentMetadata, write_fragments

from lance_pipeline.errors import InputError

FACTS_KEY = b"lance_pipeline"
Facts = dict[str, Any]


def commit_table(
    uri: str,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    facts: Callable[[], Facts],
) -> lance.LanceDataset:
    """Write ``batches`` as the new version of the table at ``uri``, in one atomic commit.

    Memory holds a few batches at a time. ``facts`` is called after the last batch, so that it may
    tell what was counted on the way. Readers see the old version until the commit.

    Raises:
        InputError: the folder cannot be written. An error that ``batches`` raises arrives unchanged.
    """
    failures: list[Exception] = []
    try:
        if "://" not in uri:
            os.makedirs(os.path.dirname(os.path.abspath(uri)), exist_ok=True)
        reader = pa.RecordBatchReader.from_batches(schema, _noting(failures, batches))
        fragments = write_fragments(reader, uri, schema=schema, mode="create" if not table_exists(uri) else "overwrite")
        schema = schema.with_metadata({FACTS_KEY: json.dumps(_facts_or_clean(facts, uri, fragments)).encode()})
        return lance.LanceDataset.commit(uri, lance.LanceOperation.Overwrite(schema, fragments))
    except OSError as error:
        if failures:
            raise failures[0] from None
        raise InputError(
            f"cannot write the Lance dataset {uri}: {error}. Check that the disk has room and that "
            "the folder may be written; LANCE_PIPELINE_DATA moves all data elsewhere."
        ) from error


def _facts_or_clean(facts: Callable[[], Facts], uri: str, fragments: list[FragmentMetadata]) -> Facts:
    """The facts; if there are none, for the batches were no good, what was written is removed."""
    try:
        return facts()
    except InputError:
        if "://" not in uri:
            for file in (file for fragment in fragments for file in fragment.files):
                os.remove(os.path.join(uri, "data", file.path))
        raise


def _noting(failures: list[Exception], batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches; on its way through Lance an error becomes another one, so it is kept aside."""
    try:
        yield from batches
    except Exception as error:
        failures.append(error)
        raise


def read_facts(dataset: lance.LanceDataset) -> Facts:
    """The facts of the dataset's version; empty when it was not written by this package."""
    return json.loads((dataset.schema.metadata or {}).get(FACTS_KEY, b"{}"))


def table_exists(uri: str) -> bool:
    """Whether a Lance dataset is at ``uri``."""
    try:
        lance.dataset(uri)
    except (ValueError, FileNotFoundError):
        return False
    return True


def open_table(uri: str, version: int | None = None) -> lance.LanceDataset:
    """Open the dataset at ``uri``, at ``version`` or the latest.

    Raises:
        InputError: no dataset, or no such version, is there.
    """
    try:
        return lance.dataset(uri, version=version)
    except (ValueError, OSError) as error:
        which = "" if version is None else f"version {version} of "
        raise InputError(
            f"cannot open {which}the Lance dataset {uri}: {error}. Materialize the asset that writes it again."
        ) from error
