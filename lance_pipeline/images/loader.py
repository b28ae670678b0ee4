"""Batches of decoded images from a Lance dataset."""

import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch

from lance_pipeline.errors import InputError
from lance_pipeline.images.decoding import UndecodableImageError, decode_rgb, resize_rgb
from lance_pipeline.images.split import LanceSplit

Fit = Literal["crop", "squash"]
Batch = tuple[torch.Tensor, torch.Tensor]


class ImageLoader:
    """Iterates over ``(images, labels)`` of one version of a Lance dataset.

    ``images`` is uint8 of shape (n, 3, image_size, image_size), ``labels`` int64 of shape (n,), the
    class indices. Each epoch gives every row exactly once. With ``training`` the order is a
    permutation that depends on version, seed and epoch alone; otherwise it is the stored order.
    Iterating again after a break goes on where it stopped; ``set_epoch`` starts an epoch.
    Batches are read and decoded ahead by threads, in bounded memory.

    Example:
        >>> loader = ImageLoader("data/lance/digits_train.lance", batch_size=64, image_size=32,
        ...                      training=True)  # doctest: +SKIP
        >>> for images, labels in loader: ...  # doctest: +SKIP

    Args:
        uri: the Lance dataset, with columns ``image`` and ``label``.
        version: the version to read; the latest when None.
        batch_size: images in a global batch, of which each rank gets its share. The last batch of
            an epoch holds what is left.
        image_size: height and width of the images given out, in pixels.
        training: whether to shuffle.
        seed: of the shuffle.
        rank: this process among ``world_size``.
        world_size: the number of processes that share the batches.
        fit: ``crop`` scales the shorter side and crops the centre; ``squash`` ignores the aspect
            ratio.
        classes: the labels in the order of their indices; by default those of the dataset's facts.
        threads: how many batches are decoded at the same time.

    Raises:
        InputError: no such dataset or version, or rows with labels outside of ``classes``; while
            iterating, an image that cannot be decoded, by its path.
    """

    def __init__(
        self,
        uri: str,
        *,
        version: int | None = None,
        batch_size: int,
        image_size: int,
        training: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        fit: Fit = "crop",
        classes: list[str] | None = None,
        threads: int | None = None,
    ) -> None:
        self.split = LanceSplit(uri, version)
        self.classes = classes or self.split.classes
        self._batch_size, self._image_size, self._fit = batch_size, image_size, fit
        self._training, self._seed = training, seed
        self._rank, self._world_size = rank, world_size
        self._threads = threads or os.cpu_count() or 1
        self._rows = len(self.split)
        self._index = {label: index for index, label in enumerate(self.classes)}
        self._epoch = 0
        self._next_batch = 0
        if unknown := set(self.split.to_table(["label"])["label"].to_pylist()) - self._index.keys():
            raise InputError(f"{uri} has labels outside of the model's classes: {sorted(unknown)}. Train anew.")

    def __len__(self) -> int:
        """Batches in an epoch."""
        return math.ceil(self._rows / self._batch_size)

    @property
    def rows(self) -> int:
        """Images in an epoch, over all ranks."""
        return self._rows

    def set_epoch(self, epoch: int) -> None:
        """Iterate next over the given epoch, from its beginning."""
        self._epoch, self._next_batch = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration stands: the batches already given out do not come again."""
        return {
            "version": self.split.version,
            "seed": self._seed,
            "epoch": self._epoch,
            "next_batch": self._next_batch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the batch after the last one given out when the state was taken.

        Raises:
            ValueError: the state is of another dataset version or seed, hence of another order.
        """
        for key, mine in {"version": self.split.version, "seed": self._seed}.items():
            if state[key] != mine:
                raise ValueError(f"the state has {key} {state[key]}, the loader {mine}: their orders differ")
        self._epoch, self._next_batch = state["epoch"], state["next_batch"]

    def __iter__(self) -> Iterator[Batch]:
        order = self._order()
        if self._next_batch >= len(self):
            self._next_batch = 0
        with ThreadPoolExecutor(self._threads) as pool:
            ahead: deque[Future[Batch]] = deque()
            try:
                for number in range(self._next_batch, len(self)):
                    ahead.append(pool.submit(self._batch, self._share(order, number)))
                    if len(ahead) > self._threads:
                        yield self._taken(ahead)
                while ahead:
                    yield self._taken(ahead)
            finally:
                for future in ahead:
                    future.cancel()

    def _taken(self, ahead: deque[Future[Batch]]) -> Batch:
        batch = ahead.popleft().result()
        self._next_batch += 1
        return batch

    def _order(self) -> np.ndarray:
        if not self._training:
            return np.arange(self._rows)
        return np.random.default_rng([self.split.version, self._seed, self._epoch]).permutation(self._rows)

    def _share(self, order: np.ndarray, number: int) -> np.ndarray:
        """This rank's row numbers of a global batch."""
        batch = order[number * self._batch_size : (number + 1) * self._batch_size]
        return batch[self._rank :: self._world_size]

    def _batch(self, rows: np.ndarray) -> Batch:
        table = self.split.dataset.take(rows.tolist(), columns=["image", "label"])
        images = np.empty((len(rows), self._image_size, self._image_size, 3), dtype=np.uint8)
        for position, data in enumerate(table["image"]):
            images[position] = self._pixels(data.as_py(), int(rows[position]))
        labels = [self._index[label] for label in table["label"].to_pylist()]
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.tensor(labels, dtype=torch.int64)

    def _pixels(self, data: bytes, row: int) -> np.ndarray:
        try:
            return np.asarray(resize_rgb(decode_rgb(data), self._image_size, self._fit))
        except UndecodableImageError as error:
            names = [name for name in ("path", "filename") if name in self.split.dataset.schema.names]
            name = self.split.dataset.take([row], columns=names[:1]).column(0)[0].as_py()
            raise InputError(f"image {name!r} of {self.split.uri} cannot be decoded: {error}") from error
