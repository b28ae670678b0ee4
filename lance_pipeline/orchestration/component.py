"""The component that turns one ``defs.yaml`` into the whole graph of a dataset."""

import re
from typing import Self

import dagster as dg
from pydantic import BaseModel, ValidationError

from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.assets.lance_splits import build_lance_splits
from lance_pipeline.orchestration.assets.maintenance import build_maintenance
from lance_pipeline.orchestration.assets.metrics import build_metrics
from lance_pipeline.orchestration.assets.model import build_model
from lance_pipeline.orchestration.assets.raw_images import build_raw_images
from lance_pipeline.orchestration.attributes import NAME_PATTERN, ImageClassifierAttributes, render_attributes
from lance_pipeline.orchestration.automation import build_own_maintenance, build_retraining
from lance_pipeline.orchestration.dataset import Dataset
from lance_pipeline.orchestration.defs_yaml.checking import attribute_mistakes, mistakes
from lance_pipeline.orchestration.defs_yaml.dg_check import fail_dg_check
from lance_pipeline.orchestration.defs_yaml.folders import yaml_file
from lance_pipeline.orchestration.model_checks import build_model_checks
from lance_pipeline.orchestration.plugins import load_plugins
from lance_pipeline.orchestration.trials.job import build_experiment_job
from lance_pipeline.storage.redacted_errors import without_secrets


class ImageClassifier(dg.Component):
    """Turns a folder of images into Lance datasets, a trained network and its metrics.

    Args:
        attributes: the checked content of the ``defs.yaml``.
    """

    def __init__(self, attributes: ImageClassifierAttributes) -> None:
        self.attributes = attributes

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The model that Dagster validates the YAML against; its errors name file, line and key."""
        fail_dg_check()
        return ImageClassifierAttributes

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """Load the component of a ``defs.yaml``."""
        attributes = ImageClassifierAttributes.model_validate(attributes)
        resolution = context.resolution_context.at_path("attributes")
        file = yaml_file(context.path)
        # Mistakes that Dagster accepts, such as a duplicate key.
        if file.is_file() and (lines := mistakes(file)):
            raise InputError(lines)
        # Errors quote filled-in values, which may be secret.
        with without_secrets():
            try:
                return cls(render_attributes(attributes, resolution.resolve_value))
            except ValidationError as error:
                raise InputError(attribute_mistakes(file, error)) from error

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Assets, checks, the retraining job and, if configured, its schedule."""
        attributes = self.attributes
        plugins = load_plugins(attributes.plugins)
        dataset = Dataset(_name(attributes, context), attributes, context.project_root, plugins)
        assets = [
            build_raw_images(dataset),
            build_lance_splits(dataset),
            build_model(dataset),
            *(build_metrics(dataset, split) for split in ("val", "test")),
            build_maintenance(dataset),
        ]
        return dg.Definitions.merge(
            dg.Definitions(assets=dg.with_source_code_references(assets), asset_checks=[build_model_checks(dataset)]),
            build_retraining(dataset),
            build_own_maintenance(dataset),
            dg.Definitions(jobs=[build_experiment_job(dataset, str(context.path / "defs.yaml"))]),
        )


def _name(attributes: ImageClassifierAttributes, context: dg.ComponentLoadContext) -> str:
    """The configured name, or else the folder's name if it is valid."""
    name = attributes.name or context.path.name
    if not re.fullmatch(NAME_PATTERN, name):
        raise InputError(
            f"{context.path / 'defs.yaml'}: the folder's name {name!r} cannot name a dataset, for it must match "
            f"{NAME_PATTERN}. Rename the folder, or set `name` under `attributes`."
        )
    return name
