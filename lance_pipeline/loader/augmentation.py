"""Random augmentation of training images: drawn for each row, applied to whole batches.

The draws depend only on seeds and row, not on the batch, rank, thread or device. To add an operation, write a class
like :class:`Flip` and add it to ``Augment.operations``; tests check that both of its implementations give the same
pixels.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad

from lance_pipeline.storage.columns import Indices, Mask

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
_CPU = torch.device("cpu")
# As in torchvision's RandomResizedCrop: the number of tries, and the range of width / height.
_TRIES = 10
_RATIO = (3 / 4, 4 / 3)
_LOW, _HIGH = np.log(_RATIO).tolist()
# Each number drawn for a row has its own stream; the crop has all streams from _CROP on.
_FLIP, _SHIFT, _CROP = 0, 1, 3
# Images of at least this many pixels are mirrored one by one: copying them takes longer than a call.
_LARGE = 64 * 64
# A large odd number separates the streams.
_STREAM = 0xD1342543DE82EF95


class Draws(NamedTuple):
    """The random draws for n rows.

    Attributes:
        crop: float64 (n, 2 * tries + 2) in [0, 1): area and ratio of each try, then the vertical and horizontal
            position; no columns if nothing is cropped.
        batch: the draws of each of ``Augment.operations``, of length n.
    """

    crop: Floats
    batch: tuple[NDArray[Any], ...]

    def of(self, rows: Mask | slice) -> "Draws":
        """The draws for some of the rows."""
        return Draws(self.crop[rows], tuple(drawn[rows] for drawn in self.batch))


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Operation(Protocol):
    """A random operation on whole batches; gives the same pixels on arrays and on tensors."""

    def draw(self, key: int, rows: Indices) -> NDArray[Any]:
        """The random draw for each of these rows, of length n; see :func:`uniform`."""
        ...

    def on_pixels(self, images: Pixels, drawn: NDArray[Any]) -> None:
        """Change a batch (n, h, w, 3) in place, on the threads that assemble batches."""
        ...

    def on_tensors(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """The changed batch (n, 3, h, w), on any device."""
        ...


@dataclass(frozen=True)
class Shift:
    """Pad with mirrored edges and crop at random, which shifts each image by up to ``padding`` pixels on both axes.

    The draws are int64 (n, 2), the top left corner of each crop in the padded image.
    """

    padding: int

    def draw(self, key: int, rows: Indices) -> Indices:
        """The corner for each row."""
        places = [uniform(key, rows, _SHIFT + axis) for axis in (0, 1)]
        return (np.stack(places, axis=1) * (2 * self.padding + 1)).astype(np.int64)

    def on_pixels(self, images: Pixels, drawn: Indices) -> None:
        """Shift the images, in place."""
        _, height, width, _ = images.shape
        by = self.padding
        for image, (top, left) in zip(images, drawn.tolist(), strict=True):
            padded = cv2.copyMakeBorder(image, by, by, by, by, cv2.BORDER_REFLECT_101)
            image[:] = padded[top : top + height, left : left + width]

    def on_tensors(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """The shifted images."""
        n, _, height, width = images.shape
        padded = pad(images.float(), (self.padding,) * 4, mode="reflect").to(images.dtype)
        top, left = drawn.unbind(1)
        rows = (top[:, None] + torch.arange(height, device=images.device))[:, :, None]
        columns = (left[:, None] + torch.arange(width, device=images.device))[:, None, :]
        which = torch.arange(n, device=images.device)[:, None, None]
        return padded.permute(0, 2, 3, 1)[which, rows, columns].permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Flip:
    """Mirror half of the images left to right. The draws are bool (n,)."""

    def draw(self, key: int, rows: Indices) -> Mask:
        """Whether to mirror each row."""
        return uniform(key, rows, _FLIP) < 0.5

    def on_pixels(self, images: Pixels, drawn: Mask) -> None:
        """Mirror the chosen images, in place."""
        which = np.flatnonzero(drawn)
        _, height, width, channels = images.shape
        if height * width >= _LARGE:
            for number in which.tolist():
                cv2.flip(images[number], 1, images[number])
        elif len(which):
            # Stacked vertically they are one image, which one call mirrors.
            tower = images[which].reshape(len(which) * height, width, channels)
            images[which] = np.asarray(cv2.flip(tower, 1)).reshape(len(which), height, width, channels)

    def on_tensors(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """The images, with the chosen ones mirrored."""
        return torch.where(drawn[:, None, None, None], images.flip(-1), images)


@dataclass(frozen=True)
class Augment:
    """The augmentation of training images.

    Attributes:
        flip: mirror half of the images left to right.
        padding: shift each image by up to this many pixels on both axes, with mirrored edges.
        resized_crop: the smallest and largest share of the area to crop, at a ratio from 3:4 to 4:3, and resize to the
            image size; None crops nothing.
    """

    flip: bool = True
    padding: int = 0
    resized_crop: tuple[float, float] | None = None

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The operations on whole batches after the crop, in order."""
        return (*([Shift(self.padding)] if self.padding else []), *([Flip()] if self.flip else []))

    def draw(self, key: int, rows: Indices) -> Draws:
        """The draws for these rows; ``key`` is the result of :func:`key_of`."""
        crop = np.empty((len(rows), 0))
        if self.resized_crop:
            crop = np.stack([uniform(key, rows, _CROP + number) for number in range(2 * _TRIES + 2)], axis=1)
        return Draws(crop, tuple(operation.draw(key, rows) for operation in self.operations))


def key_of(*seeds: int) -> int:
    """A 64-bit random key derived from seeds, none of them negative."""
    return int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0])


def uniform(key: int, rows: Indices, stream: int) -> Floats:
    """A number in [0, 1) for each row, float64 (n,): a hash of key, stream and row.

    Source: the output function of SplitMix64; Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators",
    2014. A row's number does not require those of the rows before it.
    """
    with np.errstate(over="ignore"):
        z = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64((key + stream * _STREAM) % (1 << 64))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) / (1 << 53)


def crop_box(draw: Floats, height: int, width: int, area: tuple[float, float]) -> Box:
    """The part of an image of this size to crop, given a row of ``Draws.crop``.

    The distribution is that of torchvision's RandomResizedCrop: the ratio is drawn on a logarithmic scale; if no try
    fits, the result is the largest central part with the closest possible ratio.
    """
    *tries, down, across = draw.tolist()
    for share, slant in zip(tries[::2], tries[1::2], strict=True):
        wanted = height * width * (area[0] + share * (area[1] - area[0]))
        ratio = math.exp(_LOW + slant * (_HIGH - _LOW))
        w, h = round((wanted * ratio) ** 0.5), round((wanted / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return Box(int(down * (height - h + 1)), int(across * (width - w + 1)), h, w)
    w, h = min(width, round(height * _RATIO[1])), min(height, round(width / _RATIO[0]))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def normalized(images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """uint8 images (n, c, h, w) as float32, ``(image / 255 - mean) / std`` per channel."""
    scale, shift = (factor[:, None, None] for factor in normalizing_factors(mean, std, images.device))
    return torch.addcmul(shift, images.float(), scale)


@lru_cache(maxsize=8)
def normalizing_factors(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device = _CPU
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift, float32 (c,), with ``(image / 255 - mean) / std = image * scale + shift``; do not modify them.

    They stay on the device: copying them for each batch would wait for the computation.
    """
    scale, shift = 1 / (255 * torch.tensor(std)), -torch.tensor(mean) / torch.tensor(std)
    return scale.to(device), shift.to(device)
