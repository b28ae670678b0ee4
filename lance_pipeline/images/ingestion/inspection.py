"""What is measured of each image when it is ingested: its pixels are seen once, and never again."""

import hashlib
from typing import NamedTuple

import cv2
import numpy as np
import xxhash
from numpy.typing import NDArray

from lance_pipeline.images.decoding import decode_image

# dHash compares neighbours in rows of 9 grey values; 8 rows make 64 bits.
_HASH_WIDTH, _HASH_HEIGHT = 9, 8
# Larger images are sampled down to this before they are averaged: eight times the hash's grid.
_SAMPLED = (8 * _HASH_WIDTH, 8 * _HASH_HEIGHT)


class Inspected(NamedTuple):
    """An image's bytes and what was measured of it.

    ``sums`` and ``square_sums`` are over the pixels of red, green and blue; ``grid`` is the uint8
    grey image of shape (8, 9) that the perceptual hash comes from, as bytes.
    """

    data: bytes
    sha256: bytes
    width: int
    height: int
    format: str
    pixel_digest: bytes
    grid: bytes
    sums: tuple[int, int, int]
    square_sums: tuple[int, int, int]


def inspect_image(data: bytes, sha256: bytes) -> Inspected:
    """Decode an image in full and measure it.

    Raises:
        UndecodableImageError: it cannot be decoded whole.
    """
    pixels, kind = decode_image(data)
    height, width, _ = pixels.shape
    sums, square_sums = channel_sums(pixels)
    return Inspected(
        data, sha256, width, height, kind, pixel_digest(pixels), _hash_grid(pixels), sums, square_sums
    )  # fmt: skip


def bytes_digest(data: bytes) -> bytes:
    """The SHA-256 of a file's bytes, 32 bytes."""
    return hashlib.sha256(data).digest()


def pixel_digest(pixels: NDArray[np.uint8]) -> bytes:
    """The XXH3-128 of RGB pixels of shape (height, width, 3), 16 bytes, seeded by their shape.

    It tells images apart that differ by accident; it is no protection against an adversary.
    """
    height, width, _ = pixels.shape
    return xxhash.xxh3_128_digest(np.ascontiguousarray(pixels).data, seed=width << 32 | height)


def channel_sums(pixels: NDArray[np.uint8]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The exact sums and sums of squares of the three channels of uint8 pixels.

    OpenCV adds 8-bit values as integers; its double results round to the exact sums up to 2**50,
    far more than MAX_PIXELS pixels can reach.
    """
    planes = cv2.split(pixels)
    r, g, b = (round(cv2.norm(plane, cv2.NORM_L1)) for plane in planes)
    rr, gg, bb = (round(cv2.norm(plane, cv2.NORM_L2SQR)) for plane in planes)
    return (r, g, b), (rr, gg, bb)


def _hash_grid(pixels: NDArray[np.uint8]) -> bytes:
    height, width, _ = pixels.shape
    if width * height > _SAMPLED[0] * _SAMPLED[1]:
        pixels = cv2.resize(pixels, _SAMPLED, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (_HASH_WIDTH, _HASH_HEIGHT), interpolation=cv2.INTER_AREA).tobytes()


def perceptual_hashes(grids: list[bytes]) -> NDArray[np.uint64]:
    """The 64-bit dHash of each grid: a bit is set where a value is greater than its left neighbour.

    Source: N. Krawetz, "Kind of Like That", 2013.
    """
    values = np.frombuffer(b"".join(grids), np.uint8).reshape(-1, _HASH_HEIGHT, _HASH_WIDTH)
    bits = values[:, :, 1:] > values[:, :, :-1]
    return np.packbits(bits.reshape(len(grids), 64), axis=1).view(">u8").astype(np.uint64).reshape(-1)
