"""Where Lance datasets and models are kept, as a resource."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
from pydantic import Field

from lance_pipeline.orchestration.paths import data_root, lance_place, lance_root, make_folder
from lance_pipeline.orchestration.settled import Settled

TRIALS = ".trials"
"""The folder, beside the checkpoints of each dataset's training, with those of trials."""


class LanceStore(Settled, dg.ConfigurableResource):
    """Names the places of Lance datasets and model files."""

    at_launch: ClassVar[Mapping[str, Any]] = {"cache_budget": dg.Noneable(int)}

    datasets: str | None = Field(
        default=None,
        description="Folder or object-store URI of the Lance datasets; `lance` below LANCE_PIPELINE_DATA, or below "
        "`data`, when unset.",
    )

    cache_budget: int | None = Field(
        default=None,
        ge=0,
        description="Bytes that decoded images may take in `cache` below the local data folder; half of the memory, "
        "and at most half of what is free on the disk, when unset. 0 uses none, and leaves what is there.",
    )

    def dataset_uri(self, name: str) -> str:
        """The path or object-store URI of the Lance dataset of that name.

        Raises:
            InputError: its folder cannot be written.
        """
        return self.folder_uri(f"{name}.lance")

    def folder_uri(self, name: str) -> str:
        """The path or object-store URI of a folder beside the Lance datasets."""
        return f"{self.datasets or lance_root()}/{name}"

    @property
    def datasets_root(self) -> str:
        """Where the Lance datasets are, whether or not it is there."""
        return self.datasets or lance_place()

    def reports_folder(self, dataset: str) -> Path:
        """The local folder of the full lists that checks write."""
        return data_root() / "reports" / dataset

    @property
    def cache_folder(self) -> Path:
        """The local folder of decoded images, which may be deleted at any time."""
        return data_root() / "cache"

    def model_folder(self, dataset: str, run_id: str) -> Path:
        """The folder for the model of one run; it is made when the model is saved."""
        make_folder(data_root() / "models")
        return self.models_folder(dataset) / run_id

    def models_folder(self, dataset: str) -> Path:
        """The folder with a folder for the model of each run."""
        return data_root() / "models" / dataset

    def checkpoint_folder(self, dataset: str) -> Path:
        """The folder of the checkpoint of the dataset's training, which may be written."""
        return make_folder(self.checkpoint_place(dataset))

    def checkpoint_place(self, dataset: str) -> Path:
        """Where that folder is, whether or not it is there."""
        return data_root() / "checkpoints" / dataset

    def trials_folder(self, dataset: str) -> Path:
        """The folder of the checkpoints of the dataset's trials, which may be written."""
        return make_folder(self.checkpoint_place(f"{TRIALS}/{dataset}"))

    @property
    def downloads(self) -> str:
        """The folder that keeps downloaded weights."""
        return str(data_root() / "models" / "downloads")
