"""Encoded bytes to RGB pixels: the one place where an image is decoded."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lance_pipeline.images.channels import IntTriple

# A 16-bit RGB image of this size takes about 1 GB; larger ones are refused from the header.
MAX_PIXELS = 178_956_970


_LEVELS = np.arange(256, dtype=np.int64)


class UndecodableImageError(ValueError):
    """The bytes are not an image that can be decoded whole; the message says why."""


def decode_rgb(data: bytes) -> Image.Image:
    """Decode an encoded image to an 8-bit RGB Pillow image, upright by its EXIF orientation.

    Greyscale, palette and other modes are converted to RGB, 16 bits are scaled to 8; of an animation the first frame is
    taken. An image of more than ``MAX_PIXELS`` pixels is refused before it is decoded.

    Raises:
        UndecodableImageError: empty, not an image, truncated, or too large.
    """
    if not data:
        raise UndecodableImageError("the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UndecodableImageError(f"{width}x{height} pixels are more than the limit of {MAX_PIXELS}")
            image.load()
            return _eight_bit(ImageOps.exif_transpose(image)).convert("RGB")
    except UndecodableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UndecodableImageError("not an image in a format that Pillow reads") from error
    except (OSError, ValueError, SyntaxError, EOFError, RuntimeError, Image.DecompressionBombError) as error:
        raise UndecodableImageError(f"{type(error).__name__}: {error}") from error


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits, which Pillow's own conversion would clip to white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UndecodableImageError(f"pixels of mode {image.mode}, whose range is unknown; convert it to 8 or 16 bits")
    return image


def resize_rgb(image: Image.Image, size: int, fit: str) -> Image.Image:
    """Resize to ``size`` x ``size`` pixels, bilinear with antialiasing.

    ``fit="crop"`` scales the shorter side to ``size`` and crops the centre, ``fit="squash"``
    ignores the aspect ratio.
    """
    if fit == "squash":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)


def sums_of_image(image: Image.Image) -> tuple[IntTriple, IntTriple]:
    """The sums and the sums of squares of the channels of an 8-bit RGB image."""
    histogram = np.array(image.histogram(), dtype=np.int64).reshape(3, 256)
    return _triple(histogram @ _LEVELS), _triple(histogram @ _LEVELS**2)


def _triple(values: NDArray[np.int64]) -> IntTriple:
    r, g, b = values.tolist()
    return r, g, b
