"""A split in the form that MLflow shows, with its columns and classes."""

import hashlib
import json
from typing import TYPE_CHECKING

from lance_pipeline.display import printable
from lance_pipeline.orchestration.records import LanceVersion, Split

if TYPE_CHECKING:
    import pyarrow as pa
    from mlflow.entities import Dataset

# MLflow rejects longer digests.
_DIGEST_LENGTH = 36
# By prefix of Arrow's type name; MLflow has no other types.
_TYPES = {
    "string": "string",
    "large_string": "string",
    "int64": "long",
    "uint32": "long",
    "uint64": "long",
    "int": "integer",
    "uint": "integer",
    "float": "float",
    "double": "double",
    "bool": "boolean",
    "timestamp": "datetime",
}


def dataset_digest(data: LanceVersion) -> str:
    """The digest that identifies a named dataset in MLflow; other versions differ even with the same content."""
    return hashlib.sha256(f"{data.fingerprint} {data.version}".encode()).hexdigest()[:_DIGEST_LENGTH]


def tracked_dataset(name: str, split: Split) -> "Dataset":
    """One version of a split, with schema and profile as MLflow's pages show them.

    Args:
        name: name of the dataset, such as ``digits_train``.
        split: the split's record.
    """
    from mlflow.entities import Dataset

    from lance_pipeline.images import LanceSplit

    columns = [
        {"type": _type_of(field), "name": field.name, "required": not field.nullable}
        for field in LanceSplit(split.data.uri, split.data.version).dataset.schema
    ]
    counts = {printable(label): count for label, count in split.counts.items()}
    profile = {"num_rows": split.rows, "num_classes": len(counts), "images_per_class": counts}
    return Dataset(
        name=name,
        digest=dataset_digest(split.data),
        source_type="lance",
        source=split.data.model_dump_json(),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps(profile),
    )


def _type_of(field: "pa.Field") -> str:
    name = str(field.type)
    return next((kind for start, kind in _TYPES.items() if name.startswith(start)), "binary")
