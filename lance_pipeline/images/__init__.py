"""Image folders to Lance datasets to training batches; works without Dagster or MLflow.

The public names load on first use, so that importing one does not pay for the others.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lance_pipeline.images.augmentation import Augment
    from lance_pipeline.images.ingest import IngestReport, ingest_split
    from lance_pipeline.images.loader import ImageLoader
    from lance_pipeline.images.loading.cache_place import CachePlace
    from lance_pipeline.images.map_style import ImageDataset
    from lance_pipeline.images.split import LanceSplit

_HOMES = {
    "Augment": "augmentation",
    "CachePlace": "loading.cache_place",
    "IngestReport": "ingest",
    "ingest_split": "ingest",
    "ImageDataset": "map_style",
    "ImageLoader": "loader",
    "LanceSplit": "split",
}
__all__ = ["Augment", "CachePlace", "ImageDataset", "ImageLoader", "IngestReport", "LanceSplit", "ingest_split"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
