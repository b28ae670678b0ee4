"""The views of an image that a model gets: a square, or a crop at the required scale.

The shape of a view follows from the image's size, so a cache can be laid out before any image is decoded.
"""

from typing import Literal, Protocol

import cv2
import numpy as np
from PIL import Image

from lance_pipeline.imaging.decoding import decode_image, decode_scaled, decode_top, resize_rgb
from lance_pipeline.imaging.headers import Encoded, plain_jpeg
from lance_pipeline.loader.augmentation import Box, Floats, Pixels, crop_box
from lance_pipeline.storage.transparency import EARLIER, TRANSPARENCY, Transparency

Fit = Literal["crop", "squash"]


class View(Protocol):
    """The form of an image before random augmentation."""

    name: str
    """Identifies the view."""

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the view of an image of the given height and width."""
        ...

    def of(self, data: Encoded) -> Pixels:
        """The view of an encoded image, uint8 (height, width, 3).

        Raises:
            UndecodableImageError: the image cannot be decoded.
        """
        ...


class Square:
    """The whole image as a square of ``size`` pixels, resized by Pillow: bilinear, with antialiasing."""

    def __init__(self, size: int, fit: Fit, transparency: Transparency = TRANSPARENCY) -> None:
        self.size, self.fit = size, fit
        self.transparency: Transparency = transparency
        self.name = f"square-{size}-{fit}{_suffix(transparency)}"

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """The same for all images."""
        del height, width
        return self.size, self.size

    def of(self, data: Encoded) -> Pixels:
        """The square."""
        pixels = decode_image(data, self.transparency).pixels
        if pixels.shape[:2] == (self.size, self.size):
            return pixels
        return np.asarray(resize_rgb(Image.fromarray(pixels), self.size, self.fit))


class Shrunk:
    """The image shrunk until its shorter side is at most ``size`` pixels, to crop from; never enlarged."""

    def __init__(self, size: int, transparency: Transparency = TRANSPARENCY) -> None:
        self.size = size
        self.transparency: Transparency = transparency
        self.name = f"shrunk-{size}{_suffix(transparency)}"

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width, with the aspect ratio kept."""
        shorter = min(height, width)
        if shorter <= self.size:
            return height, width
        return max(round(height * self.size / shorter), 1), max(round(width * self.size / shorter), 1)

    def of(self, data: Encoded) -> Pixels:
        """The image, decoded at a scale close to the wanted one and averaged down."""
        header = plain_jpeg(data)
        if header is None:
            pixels = decode_image(data, self.transparency).pixels
            return _averaged(pixels, *self.shape(*pixels.shape[:2]))
        pixels = decode_scaled(data, header, self.size, self.size)
        return _averaged(pixels, *self.shape(header.height, header.width))


def _suffix(transparency: Transparency) -> str:
    """The suffix of a view's name; empty for the transparency of earlier versions, so their caches stay valid."""
    return "" if transparency == EARLIER else f"-{transparency}"


def random_crop(
    source: Encoded | Pixels,
    draw: Floats,
    area: tuple[float, float],
    size: int,
    out: Pixels | None = None,
    transparency: Transparency = TRANSPARENCY,
) -> Pixels:
    """A randomly placed part of an image, resized to a square: uint8 (size, size, 3).

    A plain JPEG is decoded only at the scale that the result needs, and only down to the bottom of the part.

    Args:
        source: the encoded image, or pixels of shape (height, width, 3).
        draw: a row of ``Draws.crop``.
        area: the smallest and largest share of the image.
        size: height and width of the result, in pixels.
        out: the array for the result; None allocates one.
        transparency: what transparent pixels of an encoded image become.

    Raises:
        UndecodableImageError: the image cannot be decoded.
    """
    if isinstance(source, bytes | memoryview):
        header = plain_jpeg(source)
        if header is None:
            return random_crop(decode_image(source, transparency).pixels, draw, area, size, out)
        box = crop_box(draw, header.height, header.width, area)
        # The smallest size of the whole image at which the part is still as large as the result.
        least = size * header.height / box.height, size * header.width / box.width
        pixels, height, width = decode_top(source, header, *least, box.top + box.height)
        box = _scaled(box, height / header.height, width / header.width)
    else:
        pixels = source
        box = crop_box(draw, pixels.shape[0], pixels.shape[1], area)
    return resized(pixels[box.top : box.top + box.height, box.left : box.left + box.width], size, out)


def resized(pixels: Pixels, size: int, out: Pixels | None = None) -> Pixels:
    """An image resized to a square: uint8 (size, size, 3), in ``out`` or in new memory.

    Averages whole pixels down to less than twice the size, then interpolates bilinearly: six times as fast as averaging
    fractions of pixels.
    """
    height, width, _ = pixels.shape
    factor = min(height, width) // size
    if factor > 1:
        # Trimmed to a multiple of the factor, which OpenCV resizes faster.
        height, width = height // factor, width // factor
        pixels = _averaged(pixels[: height * factor, : width * factor], height, width)
    result = np.empty((size, size, 3), np.uint8) if out is None else out
    cv2.resize(pixels, (size, size), result, interpolation=cv2.INTER_LINEAR)
    return result


def _averaged(pixels: Pixels, height: int, width: int) -> Pixels:
    """The pixels at a smaller size, each the average of its area."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _scaled(box: Box, down: float, across: float) -> Box:
    top, left = int(box.top * down), int(box.left * across)
    return Box(top, left, max(round(box.height * down), 1), max(round(box.width * across), 1))
