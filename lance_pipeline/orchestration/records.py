"""The records passed between assets: locations and versions of data, never the data itself."""

import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from lance_pipeline.errors import DamagedError
from lance_pipeline.imaging.channels import ChannelSums
from lance_pipeline.storage import sealed
from lance_pipeline.training.networks import DEFAULT_NETWORK
from lance_pipeline.training.recipe import Recipe


class Record(BaseModel):
    """The output of an asset, stored as JSON, one file for each asset and run.

    Fields added by a later version are ignored. A field added here needs a default, because existing records lack it.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    def to_json(self) -> bytes:
        """The record as a document with a format number and a digest."""
        return sealed.to_json(json.loads(self.model_dump_json()))

    @classmethod
    def from_json(cls, document: bytes, where: str, otherwise: str = "materialize again") -> Self:
        """Parse a document that this version or an earlier one wrote.

        Args:
            document: the bytes as read.
            where: its path, for errors.
            otherwise: what to do about a record of a later version if this package cannot be upgraded.

        Raises:
            DamagedError: it is damaged, or no record of this type.
            LaterFormatError: a later version of this package wrote it.
        """
        fields = sealed.from_json(document, where, otherwise).fields
        try:
            # Unknown fields are also ignored in nested settings, which are strict only in user input.
            return cls.model_validate(fields, extra="ignore")
        except ValidationError as error:
            raise DamagedError(f"{where} is not a {cls.__name__} of this version of lance-pipeline: {error}") from error


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
    """The folder of each split below ``root``; the key is ``""`` for files not split yet."""
    listing: LanceVersion
    """A table of split, label, path, size and time of every file."""
    classes: list[str]
    """In the order of their class indices, which all splits share."""
    counts: dict[str, dict[str, int]]
    """Files per split and label."""


class Split(Record):
    """An ingested split."""

    data: LanceVersion
    quarantine: TableVersion
    """The files that could not become rows."""
    scanned: int
    rows: int
    rejected: int
    counts: dict[str, int]
    channels: ChannelSums


class Model(Record):
    """A trained model."""

    network: str = DEFAULT_NETWORK
    """torchvision's name of the network, and the last part of the asset's key."""
    mlflow_run_id: str
    folder: str
    """Contains the weights and their card."""
    sha256: str
    """SHA-256 of the weights file; identifies the model."""
    classes: list[str]
    image_size: int
    recipe: Recipe
    train: LanceVersion
    val: LanceVersion
    best_epoch: int
    val_accuracy: float
    train_accuracy: float | None = None
    """On training images without augmentation; None in records of earlier versions."""
    val_accuracies: list[float] = []
    """One value per epoch."""
    val_counts: dict[str, int] = {}
    """Images per class in the val split."""


class Training(Record):
    """How a model was trained, and the result: everything needed to repeat the training.

    The first fields are the training's identity (see ``TrainingInputs.identity``).
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
    """The environments it was trained in, the latest last; several if it was interrupted and resumed in another."""
    sha256: str
    """SHA-256 of the weights file."""
    history: list[dict[str, float]]
    """For each epoch, its number and the figures that do not depend on time."""

    @property
    def identity(self) -> dict[str, Any]:
        """The identity as returned by ``TrainingInputs.identity``."""
        names = {"code", "train", "val", "model", "image_size", "weights"}
        return self.model_dump(mode="json", include=names, exclude_defaults=True) | {"recipe": self.recipe.identity()}


class Metrics(Record):
    """A model's metrics on one split."""

    network: str = DEFAULT_NETWORK
    """The network of the model."""
    model_sha256: str
    mlflow_run_id: str
    split: LanceVersion
    predictions: LanceVersion
    images: int = 0
    """Images in the split; 0 in records of earlier versions."""
    commonest_class: float = 0.0
    """The most common class's share of the images."""
    accuracy: float
    top5_accuracy: float
    macro_f1: float
    loss: float
