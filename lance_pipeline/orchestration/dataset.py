"""One dataset: the name, attributes and paths that its assets share."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import BaseModel

from lance_pipeline.orchestration.attributes import ImageClassifierAttributes
from lance_pipeline.orchestration.paths import data_root, resolve_path
from lance_pipeline.orchestration.plugins import NO_PLUGINS, Plugins
from lance_pipeline.orchestration.runtime.retries import RETRIES_TAG
from lance_pipeline.quality.split_checks import SPLIT_CHECKS, SplitCheck
from lance_pipeline.storage.redaction import redact
from lance_pipeline.training.recipe import Recipe

SPLITS = ("train", "val", "test")
MAINTENANCE_GROUP = "maintenance"
"""The group of all datasets' maintenance assets, so that no run of a dataset's graph includes them."""


def settings_version(code_version: str, *settings: BaseModel | int | str) -> str:
    """A code version that also changes with these settings, which makes their assets stale.

    Settings at their defaults do not count, so that a new setting makes nothing stale.
    """
    texts = [one.model_dump_json(exclude_defaults=True) if isinstance(one, BaseModel) else str(one) for one in settings]
    return hashlib.sha256("\n".join([code_version, *texts]).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Dataset:
    """A dataset's name, its attributes, and the project that defines it."""

    name: str
    attributes: ImageClassifierAttributes
    project: Path
    plugins: Plugins = NO_PLUGINS

    def key(self, asset: str) -> dg.AssetKey:
        """The key of one of the dataset's assets, such as ``digits/lance_train``."""
        return dg.AssetKey([self.name, asset])

    def spec(self, asset: str, description: str, kinds: set[str], code_version: str, **more: Any) -> dg.AssetSpec:
        """The spec of one of the dataset's assets, with everything that they have in common."""
        about = f"\n\n{self.attributes.description}" if self.attributes.description else ""
        return dg.AssetSpec(
            self.key(asset),
            description=redact(description + about),
            kinds=kinds,
            code_version=code_version,
            group_name=self.name,
            owners=self.attributes.owners,
            tags=self.attributes.tags,
            **more,
        )

    @property
    def step_tags(self) -> dict[str, str]:
        """The tags of the steps that make the dataset's assets and evaluate its checks."""
        return {RETRIES_TAG: self.attributes.retries.model_dump_json()}

    @property
    def network(self) -> str:
        """The name of the network, which is also the name of the model's asset."""
        return self.attributes.model

    @property
    def model_key(self) -> dg.AssetKey:
        """The key of the model's asset, such as ``digits/resnet34``."""
        return self.key(self.network)

    @property
    def recipe(self) -> Recipe:
        """The recipe, with an absolute path to a weights file."""
        recipe = self.attributes.recipe
        if recipe.weights in ("auto", "none", "imagenet"):
            return recipe
        return recipe.model_copy(update={"weights": resolve_path(recipe.weights, self.project)})

    @property
    def checks(self) -> tuple[SplitCheck, ...]:
        """The checks of each split."""
        return (*SPLIT_CHECKS, *self.plugins.checks)

    def weights_state(self) -> str:
        """Size and time of a local weights file, to detect another file under the same name."""
        path = Path(self.recipe.weights)
        if not path.is_absolute() or not path.is_file():
            return ""
        stat = path.stat()
        return f"{stat.st_size} {stat.st_mtime_ns}"

    @property
    def folder(self) -> str:
        """The folder of raw images."""
        source = self.attributes.source
        if source.folder is not None:
            return resolve_path(source.folder, self.project)
        return str(data_root() / "raw" / self.name)
