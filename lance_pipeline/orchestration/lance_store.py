"""Where Lance datasets and models are kept, as a resource."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from lance_pipeline.orchestration.paths import data_root, make_folder


class LanceStore(dg.ConfigurableResource):
    """Names the places of Lance datasets and model files below the data folder."""

    folder: str | None = Field(default=None, description="The data folder; LANCE_PIPELINE_DATA, or `data`, when unset.")

    @property
    def _root(self) -> Path:
        return Path(self.folder).absolute() if self.folder else data_root()

    def dataset_uri(self, name: str) -> str:
        """The URI of the Lance dataset of that name.

        Raises:
            InputError: its folder cannot be written.
        """
        return str(make_folder(self._root / "lance") / f"{name}.lance")

    def model_folder(self, dataset: str, run_id: str) -> Path:
        """The folder for the model of one run; it is made when the model is saved."""
        return make_folder(self._root / "models") / dataset / run_id

    @property
    def downloads(self) -> str:
        """The folder that keeps downloaded weights."""
        return str(self._root / "models" / "downloads")
