"""A split as a map-style dataset for torch's DataLoader."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from lance_pipeline.imaging.headers import Encoded
from lance_pipeline.imaging.rejection import UndecodableImageError
from lance_pipeline.loader.read_ahead import EncodedRows
from lance_pipeline.loader.row_metadata import StoredImages, refuse_fork, row_facts, undecodable
from lance_pipeline.loader.views import Fit, Square
from lance_pipeline.storage.lance_split import LanceSplit
from lance_pipeline.storage.uris import Place

Sample = tuple[torch.Tensor, int]


class ImageDataset(Dataset[Sample]):
    """Images and class indices of one version of a Lance dataset, by row.

    An image is uint8 of shape (3, image_size, image_size). A DataLoader fetches a whole batch in one request. With
    workers it needs ``multiprocessing_context="spawn"``, because Lance does not survive a fork; each worker opens the
    dataset itself. :class:`ImageLoader` is several times as fast.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> dataset = ImageDataset("data/lance/digits_train.lance", image_size=32)
        >>> images, labels = next(iter(DataLoader(dataset, batch_size=64, shuffle=True)))
        >>> images.shape, images.dtype
        (torch.Size([64, 3, 32, 32]), torch.uint8)

    Args:
        uri: the Lance dataset, a path or URI.
        version: the version to read; None reads the latest.
        image_size: height and width, in pixels.
        fit: ``crop`` scales the shorter side and crops the centre, ``squash`` ignores the aspect ratio.
        classes: the labels in the order of their indices; by default those in the dataset's facts.
        transform: called with each image.
        image_column: the column of the encoded images: binary of any kind, or blobs.
        label_column: the column of the labels, strings or integers.

    Raises:
        InputError: no such dataset or version, or rows with labels outside ``classes``; when indexing, an image that
            cannot be decoded, named by its path, or else by its row.
        RuntimeError: when indexing in a forked process.
    """

    def __init__(
        self,
        uri: Place,
        *,
        version: int | None = None,
        image_size: int,
        fit: Fit = "crop",
        classes: list[str] | None = None,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        image_column: str = "image",
        label_column: str = "label",
    ) -> None:
        self.split = LanceSplit(uri, version, image_column=image_column, label_column=label_column)
        self._settings = {
            "version": self.split.version,
            "image_size": image_size,
            "fit": fit,
            "classes": classes,
            "transform": transform,
            "image_column": image_column,
            "label_column": label_column,
        }
        self.classes = classes or self.split.classes
        labels, digests = row_facts(self.split, self.classes)
        self._labels, self._stored = labels.tolist(), StoredImages(self.split, digests)
        self._view, self._transform = Square(image_size, fit, self.split.transparency), transform
        self._process = os.getpid()

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._labels)

    def __getitem__(self, row: int) -> Sample:
        """One image and its class index."""
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Sample]:
        """Several images, read in one request; a DataLoader calls this."""
        refuse_fork(self._process)
        if not all(-len(self) <= row < len(self) for row in rows):
            raise IndexError(f"rows {list(rows)} are not all in a dataset of {len(self)} rows")
        wanted = np.array([row % len(self) for row in rows], np.int64)
        distinct, places = np.unique(wanted, return_inverse=True)
        encoded = EncodedRows(distinct, [self._stored.images.take(distinct)])
        self._stored.require_intact(distinct, encoded.images)
        images = [
            self._image(row, encoded.images[place]) for row, place in zip(wanted.tolist(), places.tolist(), strict=True)
        ]
        return [(image, self._labels[row]) for image, row in zip(images, wanted.tolist(), strict=True)]

    def __reduce__(self) -> tuple[Any, ...]:
        # Only the settings are pickled: each process opens the dataset itself.
        return _reopen, (self.split.uri, self._settings)

    def _image(self, row: int, data: Encoded) -> torch.Tensor:
        try:
            pixels = self._view.of(data)
        except UndecodableImageError as error:
            raise undecodable(self.split, row, error) from error
        image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
        return image if self._transform is None else self._transform(image)


def _reopen(uri: str, settings: dict[str, Any]) -> ImageDataset:
    return ImageDataset(uri, **settings)
