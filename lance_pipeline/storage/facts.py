"""Facts of a Lance table: a small JSON document in its schema's metadata, committed together with the rows."""

import json
from typing import Any

import lance
import pyarrow as pa
import xxhash

from lance_pipeline.errors import DamagedError
from lance_pipeline.storage.formats import FIRST_FORMAT, FORMAT_KEY, require_known_format
from lance_pipeline.storage.table_errors import verify_command

FACTS_KEY, _DIGEST_KEY = b"lance_pipeline", b"lance_pipeline_xxh3"
FACTS_FORMAT = 1
"""The latest format of a table's facts."""
Facts = dict[str, Any]


def with_facts(schema: pa.Schema, facts: Facts) -> pa.Schema:
    """The schema with these facts in its metadata, and their digest, because manifests have no checksum.

    Metadata of other tools stays.
    """
    raw = json.dumps({FORMAT_KEY: FACTS_FORMAT} | facts).encode()
    return schema.with_metadata((schema.metadata or {}) | {FACTS_KEY: raw, _DIGEST_KEY: _digest(raw)})


def read_facts(dataset: lance.LanceDataset) -> Facts:
    """The facts of the dataset's version; empty if another tool wrote it.

    Raises:
        DamagedError: they differ from what was written.
        LaterFormatError: a later version of this package has written them.
    """
    metadata = dataset.schema.metadata or {}
    raw = metadata.get(FACTS_KEY, b"{}")
    # Earlier releases stored no digest.
    if metadata.get(_DIGEST_KEY, _digest(raw)) != _digest(raw):
        raise DamagedError(
            f"the manifest of version {dataset.version} of {dataset.uri} is damaged: the metadata in it does not match "
            f"its digest. To see how to repair it, run: {verify_command(dataset.uri)}"
        )
    facts = json.loads(raw)
    where = f"version {dataset.version} of the Lance dataset {dataset.uri}"
    found = facts.pop(FORMAT_KEY, FIRST_FORMAT)
    require_known_format(found, FACTS_FORMAT, where, "move the dataset away and materialize again")
    return facts


def _digest(raw: bytes) -> bytes:
    return xxhash.xxh3_64_hexdigest(raw).encode()
