"""The records that flow between assets: where a thing is and which version, never its bytes."""

import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from lance_pipeline.errors import DamagedError
from lance_pipeline.imaging.channels import ChannelSums
from lance_pipeline.storage import sealed
from lance_pipeline.training.networks import DEFAULT_NETWORK
from lance_pipeline.training.recipe import Recipe


class Record(BaseModel):
    """What an asset hands on; kept as JSON, one file for each asset and run.

    Fields that a later version has added are ignored. A field that is added here needs a default, for the records that
    are there lack it.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    def to_json(self) -> bytes:
        """The record as a document with a format number and a digest."""
        return sealed.to_json(json.loads(self.model_dump_json()))

    @classmethod
    def from_json(cls, document: bytes, where: str, otherwise: str = "materialize again") -> Self:
        """The record in a document that this version or an earlier one has written.

        Args:
            document: as it was read.
            where: its path, for errors.
            otherwise: what to do about a record of a later version where this one cannot be upgraded.

        Raises:
            DamagedError: it is not what was written, or no record of this type.
            LaterFormatError: a later version of this package has written it.
        """
        fields = sealed.from_json(document, where, otherwise).fields
        try:
            # Of nested settings too, which are strict where people write them.
            return cls.model_validate(fields, extra="ignore")
        except ValidationError as error:
            raise DamagedError(f"{where} is no {cls.__name__} of this version of lance-pipeline: {error}") from error


class TableVersion(Record):
    """One version of a Lance dataset."""

    uri: str
    version: int


class LanceVersion(TableVersion):
    """One version of a Lance dataset, and the fingerprint of its content."""

    fingerprint: str


class RawImages(Record):
    """A listed folder of images."""

    root: str
    folders: dict[str, str]
    """For each split its folder below ``root``; ``""`` for files that are yet to be split."""
    listing: LanceVersion
    """A table of split, label, path, size and time of every file."""
    classes: list[str]
    """In the order of their class indices, everywhere."""
    counts: dict[str, dict[str, int]]
    """Files per split and label."""


class Split(Record):
    """An ingested split."""

    data: LanceVersion
    quarantine: TableVersion
    """Of the files that could not become rows."""
    scanned: int
    rows: int
    rejected: int
    counts: dict[str, int]
    channels: ChannelSums


class Model(Record):
    """A trained model."""

    network: str = DEFAULT_NETWORK
    """torchvision's name of it, and the last part of the asset's key."""
    mlflow_run_id: str
    folder: str
    """Holds the weights and their card."""
    sha256: str
    """Of the weights file; the model's identity."""
    classes: list[str]
    image_size: int
    recipe: Recipe
    train: LanceVersion
    val: LanceVersion
    best_epoch: int
    val_accuracy: float
    train_accuracy: float | None = None
    """On images that it has learned from, as they are; None of models of before."""
    val_accuracies: list[float] = []
    """Of each epoch."""
    val_counts: dict[str, int] = {}
    """Images of each class in the val split."""


class Training(Record):
    """How a model was trained, and what came of it: all that is needed to do it again.

    The first fields are the training's identity (see ``training_identity``).
    """

    code: str
    model: str = DEFAULT_NETWORK
    """The name of the network."""
    train: LanceVersion
    val: LanceVersion
    recipe: Recipe
    image_size: int
    weights: str
    device: str
    precision: str
    environments: list[dict[str, Any]]
    """In which it was trained, the last one last; more than one where it was interrupted and went on in another."""
    sha256: str
    """Of the weights file."""
    history: list[dict[str, float]]
    """Of each epoch the number and the figures that do not depend on time."""

    @property
    def identity(self) -> dict[str, Any]:
        """As ``training_identity`` gives it."""
        names = {"code", "train", "val", "model", "image_size", "weights"}
        return self.model_dump(mode="json", include=names, exclude_defaults=True) | {"recipe": self.recipe.identity()}


class Metrics(Record):
    """A model's metrics on one split."""

    network: str = DEFAULT_NETWORK
    """Of the model."""
    model_sha256: str
    mlflow_run_id: str
    split: LanceVersion
    predictions: LanceVersion
    images: int = 0
    """In the split; 0 of metrics of before."""
    commonest_class: float = 0.0
    """Its share of them."""
    accuracy: float
    top5_accuracy: float
    macro_f1: float
    loss: float
