"""Facts of a Lance table: a small JSON document in its schema's metadata, committed together with the rows."""

import json
from typing import Any

import lance
import pyarrow as pa
import xxhash

from lance_pipeline.errors import DamagedError
from lance_pipeline.storage.table_errors import verify_command

FACTS_KEY, _DIGEST_KEY = b"lance_pipeline", b"lance_pipeline_xxh3"
Facts = dict[str, Any]


def with_facts(schema: pa.Schema, facts: Facts) -> pa.Schema:
    """The schema with these facts in its metadata, and their digest, because manifests have no checksum."""
    raw = json.dumps(facts).encode()
    return schema.with_metadata({FACTS_KEY: raw, _DIGEST_KEY: _digest(raw)})


def read_facts(dataset: lance.LanceDataset) -> Facts:
    """The facts of the dataset's version; empty if another tool wrote it.

    Raises:
        DamagedError: they differ from what was written.
    """
    metadata = dataset.schema.metadata or {}
    raw = metadata.get(FACTS_KEY, b"{}")
    # Earlier releases stored no digest.
    if metadata.get(_DIGEST_KEY, _digest(raw)) != _digest(raw):
        raise DamagedError(
            f"the manifest of version {dataset.version} of {dataset.uri} is damaged: the metadata in it does not match "
            f"its digest. To see how to repair it, run: {verify_command(dataset.uri)}"
        )
    return json.loads(raw)


def _digest(raw: bytes) -> bytes:
    return xxhash.xxh3_64_hexdigest(raw).encode()
