"""What training does to images: drawn for each row, done to whole batches.

What is drawn depends on seeds and row alone, not on the batch, the rank, the thread or the device. To add an operation,
write a class as :class:`Flip`, and name it in ``Augment.operations``; tests hold its two ways to the same pixels.
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
# torchvision's RandomResizedCrop tries as often, with these ratios of width to height.
_TRIES = 10
_RATIO = (3 / 4, 4 / 3)
_LOW, _HIGH = np.log(_RATIO).tolist()
# Each number that is drawn for a row has a stream of its own; the crop has all from here on.
_FLIP, _SHIFT, _CROP = 0, 1, 3
# Images of so many pixels are mirrored one by one: copying them takes longer than a call.
_LARGE = 64 * 64
# An odd number of many bits keeps the streams apart.
_STREAM = 0xD1342543DE82EF95


class Draws(NamedTuple):
    """What was drawn for n rows.

    Attributes:
        crop: float64 (n, 2 * tries + 2) in [0, 1): area and ratio of each try, then the place, down and across; of no
            columns where nothing is cropped.
        batch: for each of ``Augment.operations`` what it has drawn, of length n.
    """

    crop: Floats
    batch: tuple[NDArray[Any], ...]

    def of(self, rows: Mask | slice) -> "Draws":
        """What was drawn for some of the rows."""
        return Draws(self.crop[rows], tuple(drawn[rows] for drawn in self.batch))


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Operation(Protocol):
    """Something random that is done to whole batches: the same pixels on arrays and on tensors."""

    def draw(self, key: int, rows: Indices) -> NDArray[Any]:
        """What happens to each of these rows, of length n; see :func:`uniform`."""
        ...

    def on_pixels(self, images: Pixels, drawn: NDArray[Any]) -> None:
        """Change a batch (n, h, w, 3) in place, on the threads that assemble batches."""
        ...

    def on_tensors(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """A batch (n, 3, h, w) changed, on any device."""
        ...


@dataclass(frozen=True)
class Shift:
    """Pad with mirrored edges and crop at random: each image moves by up to ``padding`` pixels both ways.

    Drawn is int64 (n, 2), the top left corner of each crop in the padded image.
    """

    padding: int

    def draw(self, key: int, rows: Indices) -> Indices:
        """A corner for each row."""
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
        """The images shifted."""
        n, _, height, width = images.shape
        padded = pad(images.float(), (self.padding,) * 4, mode="reflect").to(images.dtype)
        top, left = drawn.unbind(1)
        rows = (top[:, None] + torch.arange(height, device=images.device))[:, :, None]
        columns = (left[:, None] + torch.arange(width, device=images.device))[:, None, :]
        which = torch.arange(n, device=images.device)[:, None, None]
        return padded.permute(0, 2, 3, 1)[which, rows, columns].permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Flip:
    """Mirror half of the images left to right. Drawn is bool (n,)."""

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
            # On top of each other they are one image, mirrored by one call.
            tower = images[which].reshape(len(which) * height, width, channels)
            images[which] = np.asarray(cv2.flip(tower, 1)).reshape(len(which), height, width, channels)

    def on_tensors(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """The images, the chosen ones mirrored."""
        return torch.where(drawn[:, None, None, None], images.flip(-1), images)


@dataclass(frozen=True)
class Augment:
    """How training images are varied.

    Attributes:
        flip: mirror half of them left to right.
        padding: shift each by up to so many pixels both ways, the edges mirrored.
        resized_crop: the least and the greatest share of the area that is cropped, at a ratio from 3:4 to 4:3, and
            resized to the image size; None crops nothing.
    """

    flip: bool = True
    padding: int = 0
    resized_crop: tuple[float, float] | None = None

    @property
    def operations(self) -> tuple[Operation, ...]:
        """What is done to whole batches after the crop, in this order."""
        return (*([Shift(self.padding)] if self.padding else []), *([Flip()] if self.flip else []))

    def draw(self, key: int, rows: Indices) -> Draws:
        """What happens to these rows; ``key`` stands for the seeds."""
        crop = np.empty((len(rows), 0))
        if self.resized_crop:
            crop = np.stack([uniform(key, rows, _CROP + number) for number in range(2 * _TRIES + 2)], axis=1)
        return Draws(crop, tuple(operation.draw(key, rows) for operation in self.operations))


def key_of(*seeds: int) -> int:
    """One 64-bit key that stands for some seeds, none of them negative."""
    return int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0])


def uniform(key: int, rows: Indices, stream: int) -> Floats:
    """A number in [0, 1) for each row, float64 (n,): a hash of key, stream and row.

    Source: the output function of SplitMix64; Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators",
    2014. A row's numbers are found without those of the rows before it.
    """
    with np.errstate(over="ignore"):
        z = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64((key + stream * _STREAM) % (1 << 64))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) / (1 << 53)


def crop_box(draw: Floats, height: int, width: int, area: tuple[float, float]) -> Box:
    """The part of an image of this size that a row of ``Draws.crop`` stands for.

    The same distribution as torchvision's RandomResizedCrop: ratio drawn on a logarithmic scale, and the largest part
    in the middle with a ratio as near as can be when no try fits.
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
    """Scale and shift, float32 (c,), with ``(image / 255 - mean) / std = image * scale + shift``; not to be changed.

    They stay on the device: copying them for each batch would have it wait for the computation.
    """
    scale, shift = 1 / (255 * torch.tensor(std)), -torch.tensor(mean) / torch.tensor(std)
    return scale.to(device), shift.to(device)
