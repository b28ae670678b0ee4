"""Measures each image when it is ingested, while its pixels are decoded for the only time."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import xxhash
from numpy.typing import NDArray

from lance_pipeline.imaging.channels import IntTriple
from lance_pipeline.imaging.decoding import DecodedImage, decode_and_use
from lance_pipeline.imaging.rejection import UndecodableImageError
from lance_pipeline.imaging.scratch import Scratch
from lance_pipeline.storage.transparency import TRANSPARENCY, Transparency

Pixels = NDArray[np.uint8]
_scratch = Scratch()
# dHash compares neighbours in rows of 9 grey values; 8 rows make 64 bits.
_HASH_WIDTH, _HASH_HEIGHT = 9, 8
# Larger images are sampled down to this size before they are averaged: eight times the hash's grid.
_SAMPLED = (8 * _HASH_WIDTH, 8 * _HASH_HEIGHT)
# Images of up to this many pixels are measured in stacks: the calls would cost more than the work.
_SMALL = _SAMPLED[0] * _SAMPLED[1]


class Measurements(NamedTuple):
    """Measurements of an image: a digest of its pixels, its hash grid, and the sums over red, green and blue.

    The grid is the uint8 grey image of shape (8, 9) that the perceptual hash comes from, as bytes.
    """

    pixel_digest: bytes
    grid: bytes
    sums: IntTriple
    square_sums: IntTriple


class ImageInfo(NamedTuple):
    """Size, format and measurements of an image; width and height in pixels."""

    width: int
    height: int
    format: str
    measured: Measurements


def inspect_images(
    files: Sequence[bytes], transparency: Transparency = TRANSPARENCY
) -> list[ImageInfo | UndecodableImageError]:
    """Decode images in full and measure them; for an image that cannot be decoded, the error is returned.

    Args:
        files: each image's bytes.
        transparency: what transparent pixels become.
    """
    results: dict[int, ImageInfo | UndecodableImageError] = {}
    small: dict[tuple[int, ...], list[tuple[int, DecodedImage]]] = defaultdict(list)
    for place, data in enumerate(files):
        try:
            found = decode_and_use(data, _measured_unless_small, transparency)
        except UndecodableImageError as error:
            found = error
        if isinstance(found, DecodedImage):
            small[found.pixels.shape].append((place, found))
        else:
            results[place] = found
    for (height, width, _), members in small.items():
        stack = np.stack([image.pixels for _, image in members])
        for (place, image), measured in zip(members, measure_stack(stack), strict=True):
            results[place] = ImageInfo(width, height, image.format, measured)
    return [results[place] for place in range(len(files))]


def _measured_unless_small(image: DecodedImage) -> ImageInfo | DecodedImage:
    height, width, _ = image.pixels.shape
    if height * width <= _SMALL:
        return image
    return ImageInfo(width, height, image.format, measure_image(image.pixels))


def bytes_digest(data: bytes) -> bytes:
    """The SHA-256 of a file's bytes, 32 bytes."""
    return hashlib.sha256(data).digest()


def measure_image(pixels: Pixels) -> Measurements:
    """Measure one image of shape (height, width, 3).

    OpenCV adds 8-bit values as integers; its double results round to the exact sums up to 2**50,
    far more than MAX_PIXELS pixels can reach.
    """
    height, width, _ = pixels.shape
    planes = list(_scratch.array(3, height, width))
    cv2.split(pixels, planes)
    r, g, b = (round(cv2.norm(plane, cv2.NORM_L1)) for plane in planes)
    rr, gg, bb = (round(cv2.norm(plane, cv2.NORM_L2SQR)) for plane in planes)
    sampled = cv2.resize(pixels, _SAMPLED, interpolation=cv2.INTER_LINEAR)
    return Measurements(_pixel_digest(pixels), _grids(sampled, 1)[0], (r, g, b), (rr, gg, bb))


def measure_stack(stack: Pixels) -> list[Measurements]:
    """Measure images of one size together; ``stack`` has the shape (images, height, width, 3)."""
    count, height, width, _ = stack.shape
    columns = stack.reshape(count, height * width, 3)
    sums = cv2.reduce(columns, 1, cv2.REDUCE_SUM, dtype=cv2.CV_64F).reshape(count, 3)
    squares = cv2.reduce(columns, 1, cv2.REDUCE_SUM2, dtype=cv2.CV_64F).reshape(count, 3)
    return [
        Measurements(digest, grid, (r, g, b), (rr, gg, bb))
        for digest, grid, (r, g, b), (rr, gg, bb) in zip(
            map(_pixel_digest, stack),
            _grids(stack.reshape(count * height, width, 3), count),
            sums.astype(np.int64).tolist(),
            squares.astype(np.int64).tolist(),
            strict=True,
        )
    ]


def _pixel_digest(pixels: Pixels) -> bytes:
    """The XXH3-128 of RGB pixels, seeded by their shape.

    It detects accidental differences; it does not protect against an adversary.
    """
    height, width, _ = pixels.shape
    return xxhash.xxh3_128_digest(np.ascontiguousarray(pixels).data, seed=width << 32 | height)


def _grids(tower: Pixels | cv2.typing.MatLike, count: int) -> list[bytes]:
    """The hash grids of ``count`` images of one size, stacked vertically.

    Each image's rows are averaged to 8, so that images do not mix.
    """
    grey = cv2.cvtColor(tower, cv2.COLOR_RGB2GRAY)
    grids = cv2.resize(grey, (_HASH_WIDTH, _HASH_HEIGHT * count), interpolation=cv2.INTER_AREA).tobytes()
    size = _HASH_WIDTH * _HASH_HEIGHT
    return [grids[start : start + size] for start in range(0, count * size, size)]


def perceptual_hashes(grids: Iterable[bytes]) -> NDArray[np.uint64]:
    """The 64-bit dHash of each grid: a bit is set where a value is greater than its left neighbour.

    Source: N. Krawetz, "Kind of Like That", 2013.
    """
    values = np.frombuffer(b"".join(grids), np.uint8).reshape(-1, _HASH_HEIGHT, _HASH_WIDTH)
    bits = values[:, :, 1:] > values[:, :, :-1]
    return np.packbits(bits.reshape(len(values), 64), axis=1).view(">u8").astype(np.uint64).reshape(-1)
