"""Loads batches of images from a Lance dataset."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from lance_pipeline.errors import InputError
from lance_pipeline.imaging.rejection import UndecodableImageError
from lance_pipeline.loader.assembly import Assembler, Normalization, Preparation, Triple
from lance_pipeline.loader.augmentation import Augment, key_of
from lance_pipeline.loader.buffers import PageLocked, ordinary
from lance_pipeline.loader.cache import NoCacheError, PixelCache
from lance_pipeline.loader.cache_place import CachePlace
from lance_pipeline.loader.devices import Batch, Upload, copy_stream
from lance_pipeline.loader.epoch import EpochBatches, Share, batch_buffers
from lance_pipeline.loader.load_meter import LoaderStats, LoadMeter
from lance_pipeline.loader.order import Order
from lance_pipeline.loader.row_metadata import StoredImages, refuse_fork, row_facts, undecodable
from lance_pipeline.loader.views import Fit, Shrunk, Square
from lance_pipeline.storage.lance_split import LanceSplit
from lance_pipeline.storage.transparency import Transparency
from lance_pipeline.storage.uris import Place

_log = logging.getLogger(__name__)
_NOTHING, _PLACE = Augment(flip=False), CachePlace()


@dataclass
class _Position:
    """The position of an iterator: its epoch, and the number of its next batch."""

    epoch: int
    next_batch: int = 0


class ImageLoader(IterableDataset[Batch]):
    """Iterates over ``(images, labels)`` of one version of a Lance dataset.

    ``images`` has the shape (n, 3, image_size, image_size), channels last in memory: uint8, or float32 with
    ``normalize``. ``labels`` is int64 of shape (n,), the class indices. Each epoch yields every row once, but for those
    of a dropped last batch. With ``training``, the order and the augmentation of each row depend only on version, seed
    and epoch; otherwise rows come in the stored order. As with every torch loader, ``iter`` begins the epoch, and
    iterators are independent; only the iterator after ``load_state_dict`` resumes. ``set_epoch`` selects the epoch.

    Decoded images are kept in a memory-mapped cache for later epochs and runs, if the budget allows it; otherwise they
    are read in clumps and decoded in each epoch, in bounded memory. The batches are the same either way. ``mode`` says
    which of the two is used, and why.

    Example:
        >>> loader = ImageLoader("data/lance/digits_train.lance", batch_size=64, image_size=32,
        ...                      training=True, augment=Augment(padding=4), cache=None)
        >>> sum(len(labels) for images, labels in loader)
        1257

    Args:
        uri: the Lance dataset, a path or URI.
        version: the version to read; None reads the latest.
        batch_size: images in a global batch, which the ranks share. The last batch of an epoch may be smaller; one with
            fewer images than ranks is dropped, so that all ranks get the same number of batches and no empty one.
        image_size: height and width of the yielded images, in pixels.
        training: whether to shuffle and augment.
        seed: the seed of order and augmentation.
        rank: the rank of this process.
        world_size: the number of processes that share the batches.
        drop_last: whether to drop every last batch with fewer than ``batch_size`` images.
        augment: the random augmentation, used only if ``training``; None augments nothing.
        normalize: mean and standard deviation of each channel, on the scale 0 to 1, for float32 images.
        fit: without a resized crop, ``crop`` scales the shorter side and crops the centre, ``squash`` ignores the
            aspect ratio.
        cache: where to keep decoded images and how much space they may take; None streams.
        cache_size: take resized crops from images whose shorter side is this many pixels, which can be cached; None
            takes them from the whole images, which are not cached.
        classes: the labels in the order of their indices; by default those in the dataset's facts.
        threads: the number of threads that assemble batches; by default one per core.
        device: the device of the yielded batches.
        on_bad_image: ``raise`` fails at an image that cannot be decoded, ``skip`` leaves it out and counts it.
        transparency: what transparent pixels become; None uses the setting of the ingest.
        image_column: the column of the encoded images: binary of any kind, or blobs.
        label_column: the column of the labels, strings or integers.

    Raises:
        InputError: no such dataset or version, rows with labels outside ``classes``, or fewer rows than ranks; while
            iterating, an image that cannot be decoded, named by its path, or else by its row.
        DamagedError: (an InputError) here and while iterating, the stored data is not what was ingested.
        ValueError: ``rank`` is not below ``world_size``, or ``batch_size`` is below 1 or ``world_size``.
    """

    def __init__(
        self,
        uri: Place,
        *,
        version: int | None = None,
        batch_size: int,
        image_size: int,
        training: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        augment: Augment | None = None,
        normalize: tuple[Triple, Triple] | None = None,
        fit: Fit = "crop",
        cache: CachePlace | None = _PLACE,
        cache_size: int | None = None,
        classes: list[str] | None = None,
        threads: int | None = None,
        device: str | torch.device = "cpu",
        on_bad_image: Literal["raise", "skip"] = "raise",
        transparency: Transparency | None = None,
        image_column: str = "image",
        label_column: str = "label",
    ) -> None:
        settings = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self._share = Share(batch_size, rank, world_size, drop_last)
        self.split = LanceSplit(uri, version, image_column=image_column, label_column=label_column)
        self._settings = settings | {"uri": self.split.uri, "version": self.split.version}
        self.classes = classes or self.split.classes
        self._labels, digests = row_facts(self.split, self.classes)
        self._require_batches()
        self._stored = StoredImages(self.split, digests)
        self._training, self._seed = training, seed
        self._order = self._mixing_order()
        self._threads, self._device = threads or os.cpu_count() or 1, torch.device(device)
        self._skips = on_bad_image == "skip"
        augment = (augment or _NOTHING) if training else _NOTHING
        transparency = transparency or self.split.transparency
        self._preparation = Preparation(
            size=image_size,
            view=_view(augment, image_size, fit, cache_size, transparency),
            transparency=transparency,
            augment=augment,
            normalization=None if normalize is None else Normalization(*normalize),
            finish=self._device.type == "cpu",
        )
        self._meter = LoadMeter()
        allocate = PageLocked() if self._device.type == "cuda" else ordinary
        self._buffers = batch_buffers(self._share, image_size, allocate)
        self._position, self._resumes = _Position(0), False
        self._process, self._worked = os.getpid(), False
        self._cache, self.mode = self._open_cache(cache)
        _log.info("%s, version %s: %s", self.split.uri, self.split.version, self.mode)

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return self._share.batches(self.rows)

    @property
    def rows(self) -> int:
        """The number of images in the dataset; an epoch has all of them, unless its last batch is dropped."""
        return len(self._labels)

    @property
    def batch_size(self) -> int:
        """The number of images in a global batch."""
        return self._share.batch_size

    @property
    def class_counts(self) -> list[int]:
        """The number of images of each class, in the order of the class indices."""
        return np.bincount(self._labels, minlength=len(self.classes)).tolist()

    def batch_paths(self, number: int) -> list[str]:
        """The paths of the images in this process's part of a batch of the epoch, counted from 0."""
        _, rows, _ = self._epoch_batches().locate([number])
        return self.split.paths_of(rows.tolist())

    def set_epoch(self, epoch: int) -> None:
        """Start the next iteration at the beginning of the given epoch."""
        self._position, self._resumes = _Position(epoch), False

    def state_dict(self) -> dict[str, Any]:
        """The position of the latest iterator, after the last batch that it yielded.

        Raises:
            RuntimeError: this is a worker of a DataLoader, which yields only some of the batches.
        """
        if get_worker_info() is not None:
            raise RuntimeError(
                "a worker of a DataLoader does not know the position among all batches: use ImageLoader without a "
                "DataLoader, or with num_workers=0, to save and load its state."
            )
        return self._identity() | asdict(self._position)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iterator resume after the last batch yielded when the state was taken.

        At the end of an epoch, nothing is left, so it begins the epoch again. The world size may differ.

        Raises:
            ValueError: the state has another dataset version, seed or batch size, so its batches differ.
        """
        for key, mine in self._identity().items():
            if state[key] != mine:
                raise ValueError(f"the state has {key} {state[key]} and the loader has {mine}, so their batches differ")
        self._position, self._resumes = _Position(state["epoch"], state["next_batch"]), True

    def take_stats(self) -> LoaderStats:
        """The number of images and the time spent since the last call."""
        return self._meter.take()

    def __iter__(self) -> Iterator[Batch]:
        refuse_fork(self._process)
        if not self._resumes or self._position.next_batch >= len(self):
            self._position = _Position(self._position.epoch)
        self._resumes = False
        numbers, worker = range(self._position.next_batch, len(self)), get_worker_info()
        if worker is not None:
            # The DataLoader takes a batch from each worker in turn, which restores the order.
            numbers = numbers[worker.id :: worker.num_workers]
        return self._batches(numbers, self._position, self._epoch_batches())

    def _batches(self, numbers: Sequence[int], position: _Position, epoch: EpochBatches) -> Iterator[Batch]:
        """The batches with these numbers; updates the position of their iterator."""
        # Here, because a worker reports no error of ``iter``.
        self._refuse_second_epoch()
        assembled, left = epoch.of(numbers), iter(numbers)
        if self._preparation.finish:
            batches = ((one.images, one.labels) for one in assembled)
        else:
            operations, normalization = self._preparation.augment.operations, self._preparation.normalization
            batches = Upload(self._device, operations, normalization, copy_stream(self._device))(assembled)
        for batch in batches:
            number = next(left)
            position.next_batch = number + 1
            # All of a batch's images can be bad.
            if len(batch[1]):
                yield batch
            elif self._share.world_size > 1:
                raise self._no_image_left(number, epoch)
        if self._cache is not None and self._cache.finish():
            self.mode = f"cached in {self._cache.path}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Only the settings are pickled: each process opens the dataset itself. A copy begins the epoch, as an iterator
        # of this loader would.
        position = self._position if self._resumes else _Position(self._position.epoch)
        return _reopen, (self._settings, self._identity() | asdict(position))

    def _refuse_second_epoch(self) -> None:
        """Refuse a second epoch in a persistent worker: it cannot learn of ``set_epoch``, and would repeat its epoch.

        Raises:
            RuntimeError: this is a second epoch of training.
        """
        if get_worker_info() is None:
            return
        if self._training and self._worked:
            raise RuntimeError(
                "set_epoch does not reach persistent workers of a DataLoader: remove persistent_workers=True, or use "
                "ImageLoader without a DataLoader, which needs no workers to be fast."
            )
        self._worked = True

    def _require_batches(self) -> None:
        """Check that there is an image for each rank."""
        left_out = self.rows - self._share.used(self.rows)
        if not left_out or self._share.drop_last:
            return
        ranks = self._share.world_size
        if left_out == self.rows:
            raise InputError(
                f"{self.split.uri} has {self.rows} rows, too few for {ranks} ranks: each needs at least one image of "
                f"every batch. Use at most {self.rows} ranks (world_size)."
            )
        _log.warning(
            "%s: the last %d of %d rows are left out of each epoch, because %d ranks cannot share them",
            self.split.uri, left_out, self.rows, ranks,
        )  # fmt: skip

    def _no_image_left(self, number: int, epoch: EpochBatches) -> InputError:
        """The error for a batch whose images are all bad on this rank, while other ranks wait for its part."""
        _, rows, _ = epoch.locate([number])
        shown = ", ".join(self.split.paths_of(rows[:3].tolist()))
        return InputError(
            f"rank {self._share.rank} has no image in batch {number}, because none of its images can be decoded "
            f"({shown}). Remove them from {self.split.uri}, or use a larger batch_size."
        )

    def _identity(self) -> dict[str, int]:
        return {"version": self.split.version, "seed": self._seed, "batch_size": self._share.batch_size}

    def _epoch_batches(self) -> EpochBatches:
        seeds = (self.split.version, self._seed, self._position.epoch)
        assembler = Assembler(
            labels=self._labels,
            preparation=self._preparation,
            key=key_of(*seeds),
            cache=self._cache,
            on_bad=self._handle_bad_image,
            buffers=self._buffers,
            meter=self._meter,
        )
        order = replace(self._order, seeds=seeds if self._training else None)
        return EpochBatches(self._stored, order, self._share, assembler, self._cache, self._threads, self._meter)

    def _mixing_order(self) -> Order:
        """The order of the rows, without seeds."""
        order = Order.of(self.rows, self._stored.images.mean_bytes(self.split.size_in_bytes()), None)
        if not self._training or (mixing := order.mixing(self._labels)) is order:
            return order
        _log.warning(
            "%s is stored class by class: to mix the classes, rows are read in clumps of %d instead of %d, which is "
            "slower. Store the rows in random order, as an ingest does.", self.split.uri, mixing.clump, order.clump,
        )  # fmt: skip
        return mixing

    def _open_cache(self, place: CachePlace | None) -> tuple[PixelCache | None, str]:
        if place is None:
            return None, "streamed, as configured"
        if self._preparation.view is None:
            return None, "streamed, because crops are taken from whole images; set cache_size to cache smaller ones"
        try:
            cache = PixelCache(place, self.split.dataset, self._preparation.view, self.split.image_column)
        except NoCacheError as reason:
            return None, f"streamed: {reason}"
        state = "cached" if cache.complete else "streamed, and being cached"
        return cache, f"{state} in {cache.path} ({cache.nbytes / 1e6:,.0f} MB)"

    def _handle_bad_image(self, row: int, error: UndecodableImageError) -> None:
        """Skip and count a row that cannot be decoded.

        Raises:
            InputError: bad images are not to be skipped.
        """
        failure = undecodable(self.split, row, error)
        if not self._skips:
            raise failure from error
        self._meter.count("skipped", 1)
        _log.warning("%s; skipped", failure)


def _view(
    augment: Augment, image_size: int, fit: Fit, cache_size: int | None, transparency: Transparency
) -> Square | Shrunk | None:
    """The view of an image: a square, or with a resized crop a smaller image (None without ``cache_size``)."""
    if augment.resized_crop is None:
        return Square(image_size, fit, transparency)
    return None if cache_size is None else Shrunk(cache_size, transparency)


def _reopen(settings: dict[str, Any], state: dict[str, Any]) -> ImageLoader:
    loader = ImageLoader(**settings)
    loader.load_state_dict(state)
    return loader
