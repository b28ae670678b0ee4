"""What the model sees of an image: a square of it, or a part of it at the scale that is needed.

The shape of a view is known from the image's size alone, so that a cache can be laid out before anything is decoded.
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
    """How an image is kept, before anything random happens to it."""

    name: str
    """Tells views apart."""

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the view of an image of that height and width."""
        ...

    def of(self, data: Encoded) -> Pixels:
        """The view of an encoded image, uint8 (height, width, 3).

        Raises:
            UndecodableImageError: it cannot be decoded.
        """
        ...


class Square:
    """The whole image as a square of ``size`` pixels, resized by Pillow: bilinear, with antialiasing."""

    def __init__(self, size: int, fit: Fit, transparency: Transparency = TRANSPARENCY) -> None:
        self.size, self.fit = size, fit
        self.transparency: Transparency = transparency
        self.name = f"square-{size}-{fit}{_suffix(transparency)}"

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Always the same."""
        del height, width
        return self.size, self.size

    def of(self, data: Encoded) -> Pixels:
        """The square."""
        pixels = decode_image(data, self.transparency).pixels
        if pixels.shape[:2] == (self.size, self.size):
            return pixels
        return np.asarray(resize_rgb(Image.fromarray(pixels), self.size, self.fit))


class Shrunk:
    """The image with its shorter side at most ``size`` pixels, to crop from; none is enlarged."""

    def __init__(self, size: int, transparency: Transparency = TRANSPARENCY) -> None:
        self.size = size
        self.transparency: Transparency = transparency
        self.name = f"shrunk-{size}{_suffix(transparency)}"

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """The longer side keeps the ratio."""
        shorter = min(height, width)
        if shorter <= self.size:
            return height, width
        return max(round(height * self.size / shorter), 1), max(round(width * self.size / shorter), 1)

    def of(self, data: Encoded) -> Pixels:
        """The image, decoded at a scale near the one wanted and averaged down to it."""
        header = plain_jpeg(data)
        if header is None:
            pixels = decode_image(data, self.transparency).pixels
            return _averaged(pixels, *self.shape(*pixels.shape[:2]))
        pixels = decode_scaled(data, header, self.size, self.size)
        return _averaged(pixels, *self.shape(header.height, header.width))


def _suffix(transparency: Transparency) -> str:
    """Of a view's name: none for what caches of earlier versions hold."""
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

    Of a plain JPEG only as much detail is decoded as the result needs, and nothing below the part.

    Args:
        source: the encoded image, or pixels of shape (height, width, 3).
        draw: a row of ``Draws.crop``.
        area: the least and the greatest share of the image.
        size: of the result, in pixels.
        out: where to put it; new memory when None.
        transparency: what transparent pixels of an encoded image become.

    Raises:
        UndecodableImageError: it cannot be decoded.
    """
    if isinstance(source, bytes | memoryview):
        header = plain_jpeg(source)
        if header is None:
            return random_crop(decode_image(source, transparency).pixels, draw, area, size, out)
        box = crop_box(draw, header.height, header.width, area)
        # So much of the whole image that the part is still as large as the result.
        least = size * header.height / box.height, size * header.width / box.width
        pixels, height, width = decode_top(source, header, *least, box.top + box.height)
        box = _scaled(box, height / header.height, width / header.width)
    else:
        pixels = source
        box = crop_box(draw, pixels.shape[0], pixels.shape[1], area)
    return resized(pixels[box.top : box.top + box.height, box.left : box.left + box.width], size, out)


def resized(pixels: Pixels, size: int, out: Pixels | None = None) -> Pixels:
    """A part of an image as a square: uint8 (size, size, 3), in ``out`` or in new memory.

    Averaged over whole pixels down to less than twice the size, then bilinear: six times as fast as averaging over
    fractions of pixels.
    """
    height, width, _ = pixels.shape
    factor = min(height, width) // size
    if factor > 1:
        # Trimmed to a multiple, for which OpenCV has a fast way.
        height, width = height // factor, width // factor
        pixels = _averaged(pixels[: height * factor, : width * factor], height, width)
    result = np.empty((size, size, 3), np.uint8) if out is None else out
    cv2.resize(pixels, (size, size), result, interpolation=cv2.INTER_LINEAR)
    return result


def _averaged(pixels: Pixels, height: int, width: int) -> Pixels:
    """The pixels at a smaller size, each the average of the area that it stands for."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _scaled(box: Box, down: float, across: float) -> Box:
    top, left = int(box.top * down), int(box.left * across)
    return Box(top, left, max(round(box.height * down), 1), max(round(box.width * across), 1))
