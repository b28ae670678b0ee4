"""A model's predictions for a split, in memory and as a Lance dataset."""

from dataclasses import dataclass

import lance
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from lance_pipeline.loader.image_loader import ImageLoader
from lance_pipeline.storage.facts import Facts
from lance_pipeline.storage.lance_split import LanceSplit
from lance_pipeline.storage.tables import commit_table
from lance_pipeline.training.device import Device
from lance_pipeline.training.scores import Scores, outputs, scores
from lance_pipeline.training.weights import ModelCard

_BATCH_SIZE = 128


@dataclass(frozen=True)
class Predictions:
    """One row for each image, in the order of the split's rows.

    Attributes:
        labels: int64 (n,), the true class indices.
        probabilities: float32 (n, classes).
        scores: the scores of these predictions.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    scores: Scores

    @property
    def predicted(self) -> NDArray[np.int64]:
        """int64 (n,), the class index with the highest probability."""
        return self.probabilities.argmax(axis=1)


def evaluation_loader(split: LanceSplit, card: ModelCard, device: Device) -> ImageLoader:
    """A loader for the rows of a split in stored order, prepared for the card's model.

    Raises:
        InputError: the split has labels that the model does not know.
    """
    return ImageLoader(
        split.uri,
        version=split.version,
        batch_size=_BATCH_SIZE,
        image_size=card.image_size,
        training=False,
        normalize=(card.mean, card.std),
        fit=card.fit,
        # Each image is read only once.
        cache=None,
        classes=card.classes,
        device=device.torch_device,
        transparency=card.transparency,
        image_column=split.image_column,
        label_column=split.label_column,
    )


def predict(model: nn.Module, loader: ImageLoader, device: Device) -> Predictions:
    """Classify all rows of the loader, in order; the loader must normalise and not shuffle."""
    model.to(device.torch_device).to(memory_format=torch.channels_last)
    batches, losses = [], []
    for output in outputs(model, loader, device):
        batches.append((output.labels.cpu().numpy(), output.logits.softmax(dim=1).cpu().numpy()))
        losses.append(output.loss)
    labels, probabilities = (np.concatenate(one) for one in zip(*batches, strict=True))
    return Predictions(labels, probabilities, scores(labels, probabilities.argmax(axis=1), losses))


def write_predictions(
    uri: str, predictions: Predictions, paths: list[str], classes: list[str], facts: Facts
) -> lance.LanceDataset:
    """Write a new version with columns path, label, predicted, correct and probabilities.

    ``probabilities`` is a list of float32 in the order of ``classes``, which are also stored in the facts.
    """
    names = np.array(classes, dtype=object)
    schema = pa.schema(
        [
            _field("path", pa.string(), "Of the image, in the split"),
            _field("label", pa.string(), "The class that the image has in the split"),
            _field("predicted", pa.string(), "The class of the highest probability"),
            _field("correct", pa.bool_(), "Whether the two are the same"),
            _field("probabilities", pa.list_(pa.float32(), len(classes)), "Of each class, in the order of the classes"),
        ]
    )
    table = pa.table(
        [
            pa.array(paths, pa.string()),
            pa.array(names[predictions.labels], pa.string()),
            pa.array(names[predictions.predicted], pa.string()),
            pa.array(predictions.labels == predictions.predicted),
            pa.FixedSizeListArray.from_arrays(pa.array(predictions.probabilities.ravel()), len(classes)),
        ],
        schema=schema,
    )
    return commit_table(uri, schema, table.to_batches(), facts | {"classes": classes})


def _field(name: str, kind: pa.DataType, description: str) -> pa.Field:
    return pa.field(name, kind, nullable=False, metadata={"description": description})
