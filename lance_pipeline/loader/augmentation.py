"""What training does to images: drawn for each row, done to whole batches.

What is drawn depends on seeds and row alone, not on the batch, the rank, the thread or the device. The same operations
are there twice: on uint8 arrays, for the threads that assemble batches, and on tensors, for a device.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

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
_FLIP, _SHIFT, _CROP = 0, 1, 3
# Images of so many pixels are mirrored one by one: copying them takes longer than a call.
_LARGE = 64 * 64
# An odd number of many bits keeps the streams apart.
_STREAM = 0xD1342543DE82EF95


class Draws(NamedTuple):
    """What was drawn for n rows.

    Attributes:
        flip: bool (n,), which to mirror left to right.
        corners: int64 (n, 2), the top left corner of each crop in the padded image.
        crop: float64 (n, 2 * tries + 2) in [0, 1): area and ratio of each try, then the place, down and across.
    """

    flip: Mask
    corners: Indices
    crop: Floats

    def of(self, rows: Mask | slice) -> "Draws":
        """What was drawn for some of the rows."""
        return Draws(self.flip[rows], self.corners[rows], self.crop[rows])


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


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

    def draw(self, key: int, rows: Indices) -> Draws:
        """What happens to these rows; ``key`` stands for the seeds."""
        n = len(rows)
        flip = uniform(key, rows, _FLIP) < 0.5 if self.flip else np.zeros(n, dtype=bool)
        corners = np.zeros((n, 2), np.int64)
        if self.padding:
            places = [uniform(key, rows, _SHIFT + axis) for axis in (0, 1)]
            corners = (np.stack(places, axis=1) * (2 * self.padding + 1)).astype(np.int64)
        crop = np.empty((n, 0))
        if self.resized_crop:
            crop = np.stack([uniform(key, rows, _CROP + number) for number in range(2 * _TRIES + 2)], axis=1)
        return Draws(flip, corners, crop)


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


def flip_pixels(images: Pixels, chosen: Mask) -> None:
    """Mirror the chosen images of a batch (n, h, w, 3), in place."""
    which = np.flatnonzero(chosen)
    _, height, width, channels = images.shape
    if height * width >= _LARGE:
        for number in which.tolist():
            cv2.flip(images[number], 1, images[number])
    elif len(which):
        # On top of each other they are one image, mirrored by one call.
        tower = images[which].reshape(len(which) * height, width, channels)
        images[which] = np.asarray(cv2.flip(tower, 1)).reshape(len(which), height, width, channels)


def pad_crop_pixels(images: Pixels, padding: int, corners: Indices) -> None:
    """Shift the images of a batch (n, h, w, 3), in place: pad with mirrored edges, crop at the corners."""
    _, height, width, _ = images.shape
    for image, (top, left) in zip(images, corners.tolist(), strict=True):
        padded = cv2.copyMakeBorder(image, padding, padding, padding, padding, cv2.BORDER_REFLECT_101)
        image[:] = padded[top : top + height, left : left + width]


def flipped(images: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """A batch (n, c, h, w) with the chosen images, bool (n,), mirrored left to right."""
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


def pad_cropped(images: torch.Tensor, padding: int, corners: torch.Tensor) -> torch.Tensor:
    """A batch (n, c, h, w) padded with mirrored edges and cropped at the corners, int64 (n, 2)."""
    n, _, height, width = images.shape
    padded = pad(images.float(), (padding,) * 4, mode="reflect").to(images.dtype)
    top, left = corners.unbind(1)
    rows = (top[:, None] + torch.arange(height, device=images.device))[:, :, None]
    columns = (left[:, None] + torch.arange(width, device=images.device))[:, None, :]
    which = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[which, rows, columns].permute(0, 3, 1, 2)


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
