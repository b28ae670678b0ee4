"""Conversion of images decoded by Pillow to 8-bit RGB."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lance_pipeline.imaging.rejection import UndecodableImageError
from lance_pipeline.storage.transparency import Transparency

_BACKGROUNDS = {"white": 255, "black": 0, "grey": 128}
# Position of the bits per sample in a PNG, after the signature, the head of the first chunk, width and height.
_PNG_DEPTH = 24


def to_rgb(data: bytes, image: Image.Image, transparency: Transparency) -> NDArray[np.uint8]:
    """The 8-bit RGB pixels of a loaded image: uint8 (height, width, 3), not rotated upright.

    Args:
        data: the content of the file.
        image: the image decoded by Pillow.
        transparency: how to treat transparent pixels.

    Raises:
        UndecodableImageError: the value range of its pixels is unknown.
    """
    hidden = None if transparency == "drop" else _transparent_grey(data, image)
    image = _eight_bit(image)
    if transparency == "drop" or (hidden is None and not image.has_transparency_data):
        return np.asarray(image.convert("RGB"))
    background = _BACKGROUNDS[transparency]
    if hidden is not None:
        pixels = np.array(image.convert("RGB"))
        pixels[hidden] = background
        return pixels
    canvas = Image.new("RGBA", image.size, (background, background, background, 255))
    return np.asarray(Image.alpha_composite(canvas, _with_alpha(data, image)).convert("RGB"))


def _transparent_grey(data: bytes, image: Image.Image) -> NDArray[np.bool_] | None:
    """The transparent pixels of a grey PNG whose transparent value Pillow compares with pixels of another range."""
    value = image.info.get("transparency")
    if image.format != "PNG" or not isinstance(value, int):
        return None
    if image.mode.startswith("I;16"):
        return np.asarray(image) == value
    depth = data[_PNG_DEPTH]
    if image.mode == "L" and depth < 8:
        return np.asarray(image) == value * 255 // (2**depth - 1)
    return None


def _with_alpha(data: bytes, image: Image.Image) -> Image.Image:
    """The image in mode RGBA, its colours not multiplied by alpha."""
    value = image.info.get("transparency")
    if image.mode == "RGB" and image.format == "PNG" and data[_PNG_DEPTH] == 16 and isinstance(value, tuple):
        # Pillow has reduced the pixels to 8 bits, but not the transparent value.
        image.info["transparency"] = tuple(one >> 8 for one in value)
    # Pillow cannot convert premultiplied modes to RGBA directly.
    straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
    return (image if straight is None else image.convert(straight)).convert("RGBA")


def _eight_bit(image: Image.Image) -> Image.Image:
    """The image, with 16-bit grey scaled to 8 bits; Pillow's own conversion would clip it to white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UndecodableImageError(
            "unsupported", f"pixels of mode {image.mode}, whose range is unknown; convert it to 8 or 16 bits"
        )
    return image
