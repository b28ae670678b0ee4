"""The resource that locates Lance datasets, models and all other files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
from pydantic import Field, field_validator

from lance_pipeline.orchestration.paths import data_root, lance_place, lance_root, make_folder
from lance_pipeline.orchestration.settled import Settled
from lance_pipeline.storage.addresses import Address
from lance_pipeline.storage.uris import is_remote, normalized_uri

TRIALS = ".trials"
"""The folder with the checkpoints of trials, beside those of each dataset's training."""


class LanceStore(Settled, dg.ConfigurableResource):
    """Names the places of Lance datasets, models and all else that runs keep in files."""

    at_launch: ClassVar[Mapping[str, Any]] = {"cache_budget": dg.Noneable(int)}

    datasets: str | None = Field(
        default=None,
        description="Folder or object-store URI of the Lance datasets; `lance` below LANCE_PIPELINE_DATA, or below "
        "`data`, when unset.",
    )
    models: str | None = Field(
        default=None, description="Local folder of the models; `models` below the local data folder when unset."
    )
    checkpoints: str | None = Field(
        default=None,
        description="Local folder of the checkpoints of trainings, best on a fast disk; `checkpoints` below the local "
        "data folder when unset.",
    )
    cache: str | None = Field(
        default=None,
        description="Local folder of decoded images, best on a fast disk; `cache` below the local data folder when "
        "unset.",
    )
    downloads: str | None = Field(
        default=None,
        description="Local folder of downloaded weights, which may be shared; `models/downloads` below the local data "
        "folder when unset.",
    )
    records: str | None = Field(
        default=None,
        description="Local folder of the records that assets hand on; `dagster/records` below the local data folder "
        "when unset.",
    )
    reports: str | None = Field(
        default=None,
        description="Local folder of pages and full lists of checks; `reports` below the local data folder when unset.",
    )
    cache_budget: int | None = Field(
        default=None,
        ge=0,
        description="Greatest size in bytes of the decoded images in the folder `cache`; half of the memory, and at "
        "most half of the free disk space, when unset. 0 disables the cache and leaves existing files.",
    )

    @field_validator("models", "checkpoints", "cache", "downloads", "records", "reports")
    @classmethod
    def _local(cls, folder: str | None) -> str | None:
        if folder is not None and is_remote(folder):
            raise ValueError(f"{Address(folder)} is not a local folder; only `datasets` may be elsewhere")
        return folder

    def dataset_uri(self, name: str) -> str:
        """The path or object-store URI of the Lance dataset with this name.

        Raises:
            InputError: its folder cannot be written.
        """
        return self.folder_uri(f"{name}.lance")

    def folder_uri(self, name: str) -> str:
        """The path or object-store URI of a folder beside the Lance datasets."""
        return f"{normalized_uri(self.datasets or lance_root())}/{name}"

    @property
    def datasets_root(self) -> str:
        """The root of the Lance datasets, which may not exist."""
        return normalized_uri(self.datasets or lance_place())

    @property
    def reports_root(self) -> Path:
        """The local folder that contains a folder of reports for each dataset."""
        return _local_folder(self.reports, "reports")

    def reports_folder(self, dataset: str) -> Path:
        """The local folder of a dataset's pages and its checks' full lists."""
        return self.reports_root / dataset

    @property
    def records_root(self) -> Path:
        """The local folder that contains a folder of records for each asset."""
        return _local_folder(self.records, "dagster/records")

    @property
    def cache_folder(self) -> Path:
        """The local folder of decoded images, which may be deleted at any time."""
        return _local_folder(self.cache, "cache")

    @property
    def models_root(self) -> Path:
        """The local folder that contains a folder of models for each dataset."""
        return _local_folder(self.models, "models")

    def model_folder(self, dataset: str, run_id: str) -> Path:
        """The folder for the model of one run; saving the model creates it."""
        make_folder(self.models_root)
        return self.models_folder(dataset) / run_id

    def models_folder(self, dataset: str) -> Path:
        """The folder that contains a folder for the model of each run."""
        return self.models_root / dataset

    @property
    def checkpoints_root(self) -> Path:
        """The local folder that contains a folder of checkpoints for each dataset."""
        return _local_folder(self.checkpoints, "checkpoints")

    def checkpoint_folder(self, dataset: str) -> Path:
        """The folder for the checkpoint of the dataset's training, created if missing."""
        return make_folder(self.checkpoint_place(dataset))

    def checkpoint_place(self, dataset: str) -> Path:
        """The path of that folder, which may not exist."""
        return self.checkpoints_root / dataset

    def trials_folder(self, dataset: str) -> Path:
        """The folder for the checkpoints of the dataset's trials, created if missing."""
        return make_folder(self.checkpoint_place(f"{TRIALS}/{dataset}"))

    @property
    def downloads_folder(self) -> str:
        """The folder of downloaded weights."""
        return str(_local_folder(self.downloads, "models/downloads"))


def _local_folder(given: str | None, below_data: str) -> Path:
    return Path(normalized_uri(given)) if given else data_root() / below_data
