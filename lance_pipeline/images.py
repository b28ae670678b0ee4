"""Public names of the library: image folders to Lance datasets to training batches, without Dagster or MLflow.

Each name is imported on first use, so that using one does not pay for the others.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lance_pipeline.imaging.channels import ChannelSums
    from lance_pipeline.ingest.ingestion import IngestReport, Watch, ingest_split
    from lance_pipeline.ingest.quarantine import Limits
    from lance_pipeline.loader.augmentation import Augment
    from lance_pipeline.loader.cache_place import CachePlace
    from lance_pipeline.loader.image_dataset import ImageDataset
    from lance_pipeline.loader.image_loader import ImageLoader
    from lance_pipeline.loader.load_meter import LoaderStats
    from lance_pipeline.storage.lance_split import LanceSplit

_HOMES = {
    "Augment": "loader.augmentation",
    "CachePlace": "loader.cache_place",
    "ChannelSums": "imaging.channels",
    "ImageDataset": "loader.image_dataset",
    "ImageLoader": "loader.image_loader",
    "IngestReport": "ingest.ingestion",
    "LanceSplit": "storage.lance_split",
    "Limits": "ingest.quarantine",
    "LoaderStats": "loader.load_meter",
    "Watch": "ingest.ingestion",
    "ingest_split": "ingest.ingestion",
}
__all__ = [
    "Augment",
    "CachePlace",
    "ChannelSums",
    "ImageDataset",
    "ImageLoader",
    "IngestReport",
    "LanceSplit",
    "Limits",
    "LoaderStats",
    "Watch",
    "ingest_split",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"lance_pipeline.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
