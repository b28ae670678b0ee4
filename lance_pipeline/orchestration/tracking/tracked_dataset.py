"""A split as MLflow shows it: with its columns and its classes."""

import hashlib
import json
from typing import TYPE_CHECKING

from lance_pipeline.display import printable
from lance_pipeline.orchestration.records import LanceVersion, Split

if TYPE_CHECKING:
    import pyarrow as pa
    from mlflow.entities import Dataset

# MLflow refuses a digest of more characters.
_DIGEST_LENGTH = 36
# By the beginning of Arrow's name; MLflow reads no other types.
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
    """By name and digest MLflow knows a dataset: another version of the same content is another one."""
    return hashlib.sha256(f"{data.fingerprint} {data.version}".encode()).hexdigest()[:_DIGEST_LENGTH]


def tracked_dataset(name: str, split: Split) -> "Dataset":
    """One version of a split, with its schema and profile in the form that MLflow's pages show.

    Args:
        name: of the dataset, such as ``digits_train``.
        split: its record.
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
