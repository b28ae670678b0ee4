"""Encoded bytes to RGB pixels: the one place where an image is decoded.

Pillow is the reference for what the pixels are. Plain JPEG and PNG files, recognised by their
headers, go through faster decoders that give the same pixels; whatever those refuse or might see
otherwise is Pillow's to judge.
"""

import io
from typing import NamedTuple, cast

import cv2
import numpy as np
import PIL
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lance_pipeline.images.headers import BROKEN, ORIENTATION, PlainHeader, plain_jpeg, plain_png
from lance_pipeline.images.rejection import UndecodableImageError
from lance_pipeline.images.scratch import Scratch

# A 16-bit RGB image of this size takes about 1 GB; larger ones are refused from the header.
MAX_PIXELS = 178_956_970
DECODERS = f"pillow {PIL.__version__}, opencv {cv2.__version__}, simplejpeg {simplejpeg.__version__}"
# Source: JEITA CP-3451 (Exif 2.3), 4.6.4.
_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Of Pillow's formats those that hold one picture in pixels; EPS, for one, would start Ghostscript.
_FORMATS = (
    "JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "AVIF", "JPEG2000", "PPM", "PCX", "TGA", "ICO", "SGI",
)  # fmt: skip
_SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP",
)  # fmt: skip

# libjpeg leaves out frequencies to decode at these fractions of the size; others are slower than the whole.
_SCALES = (8, 4, 2)
# Rows below those that are needed: of colours at half the resolution the last ones are interpolated with the next.
_MARGIN = 4
# libjpeg's warning of data after the last row.
_TOO_MUCH = "extraneous bytes before marker"

# The threads of an ingest or a loader are the parallelism; OpenCV's own would get in their way.
cv2.setNumThreads(1)
Image.init()
_scratch = Scratch()
_KNOWN_FORMATS = [name for name in _FORMATS if name in Image.OPEN]


class DecodedImage(NamedTuple):
    """``pixels`` is uint8 RGB of shape (height, width, 3); ``format`` is Pillow's name of the encoding."""

    pixels: NDArray[np.uint8]
    format: str


def decode_image(data: bytes) -> DecodedImage:
    """Decode an encoded image to 8-bit RGB, upright by its EXIF orientation.

    Greyscale, palette and other modes are converted to RGB as Pillow does (an alpha channel is
    dropped), 16 bits are scaled to 8; of an animation the first frame is taken. An image of more
    than ``MAX_PIXELS`` pixels is refused before it is decoded.

    Raises:
        UndecodableImageError: empty, not an image, truncated, corrupt, unsupported or too large.
    """
    if not data:
        raise UndecodableImageError("empty", "the file is empty")
    if header := plain_jpeg(data):
        pixels = _decode_jpeg(data, header)
        if pixels is not None:
            return DecodedImage(pixels, "JPEG")
    elif header := plain_png(data):
        pixels = _decode_png(data, header)
        if pixels is not None:
            return DecodedImage(pixels, "PNG")
    return _decode_by_pillow(data)


def decode_scaled(data: bytes, header: PlainHeader, least_height: float, least_width: float) -> NDArray[np.uint8]:
    """A plain JPEG at the smallest of the cheap scales that leaves it at least so large: uint8 (height, width, 3).

    Raises:
        UndecodableImageError: as :func:`decode_image`.
    """
    pixels = _decode_jpeg(data, header, _scale(header, least_height, least_width))
    return _decode_by_pillow(data).pixels if pixels is None else pixels


class Top(NamedTuple):
    """The upper part of an image at a fraction of its size.

    Attributes:
        pixels: uint8 RGB (rows, width, 3), in memory that the thread's next top is decoded to.
        height: of the whole image at that fraction, in pixels.
        width: likewise.
    """

    pixels: NDArray[np.uint8]
    height: int
    width: int


def decode_top(data: bytes, header: PlainHeader, least_height: float, least_width: float, bottom: int) -> Top:
    """As :func:`decode_scaled`, but only the rows of the image above ``bottom``; what is below need not be sound.

    Raises:
        UndecodableImageError: as :func:`decode_image`.
    """
    _check_size(header.width, header.height)
    scale = _scale(header, least_height, least_width)
    rows = min(bottom + _MARGIN * scale, header.height) if header.height_at else header.height
    pixels = _scratch.array(-(-rows // scale), -(-header.width // scale), 3)
    if not _decode_rows(data, header, rows, pixels):
        pixels = _decode_by_pillow(data).pixels
        return Top(pixels, *pixels.shape[:2])
    return Top(pixels, -(-header.height // scale), pixels.shape[1])


def _scale(header: PlainHeader, least_height: float, least_width: float) -> int:
    enough = (
        scale
        for scale in _SCALES
        if -(-header.height // scale) >= least_height and -(-header.width // scale) >= least_width
    )
    return next(enough, 1)


def decode_rgb(data: bytes) -> Image.Image:
    """The same as a Pillow image of mode RGB.

    Raises:
        UndecodableImageError: as :func:`decode_image`.
    """
    return Image.fromarray(decode_image(data).pixels)


def _decode_jpeg(data: bytes, header: PlainHeader, scale: int = 1) -> NDArray[np.uint8] | None:
    _check_size(header.width, header.height)
    height, width = -(-header.height // scale), -(-header.width // scale)
    try:
        return simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)
    except ValueError:
        # It is strict about whatever libjpeg warns of: Pillow tells the harmless from the broken.
        return None


def _decode_rows(data: bytes, header: PlainHeader, rows: int, pixels: NDArray[np.uint8]) -> bool:
    """Fill ``pixels`` with so many rows, at the scale that gives them its size; False where Pillow is to judge."""
    source = data
    if rows < header.height:
        # Told that the image has no others, libjpeg stops there: in a baseline JPEG they come one after the other.
        source = bytearray(data)
        source[header.height_at : header.height_at + 2] = rows.to_bytes(2, "big")
    height, width, _ = pixels.shape
    try:
        simplejpeg.decode_jpeg(source, "RGB", min_height=height, min_width=width, buffer=pixels)
    except ValueError as error:
        # It tells of the first warning: nothing is wrong with the rows before those that are too many.
        return rows < header.height and _TOO_MUCH in str(error)
    return True


def _decode_png(data: bytes, header: PlainHeader) -> NDArray[np.uint8] | None:
    _check_size(header.width, header.height)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        return None
    return cast("NDArray[np.uint8] | None", pixels)


def _decode_by_pillow(data: bytes) -> DecodedImage:
    try:
        with Image.open(io.BytesIO(data), formats=_KNOWN_FORMATS) as image:
            _check_size(*image.size)
            kind = image.format or ""
            image.load()
            rgb = _eight_bit(_upright(image)).convert("RGB")
    except UndecodableImageError:
        raise
    except UnidentifiedImageError as error:
        if data.startswith(_SIGNATURES):
            raise UndecodableImageError("corrupt", "it begins like an image, but its header cannot be read") from error
        raise UndecodableImageError("not_an_image", "not an image in a format that is read here") from error
    except Image.DecompressionBombError as error:
        raise UndecodableImageError("too_large", str(error)) from error
    except BROKEN as error:
        cut = isinstance(error, EOFError) or "truncated" in str(error).lower()
        raise UndecodableImageError("truncated" if cut else "corrupt", f"{type(error).__name__}: {error}") from error
    return DecodedImage(np.asarray(rgb), kind)


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; as it lies where that cannot be read, as viewers show it."""
    try:
        turned = _TURNED.get(image.getexif().get(ORIENTATION, 1))
    except BROKEN:
        return image
    return image if turned is None else image.transpose(turned)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UndecodableImageError(
            "too_large", f"{width}x{height} pixels are more than the limit of {MAX_PIXELS} pixels"
        )


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits, which Pillow's own conversion would clip to white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UndecodableImageError(
            "unsupported", f"pixels of mode {image.mode}, whose range is unknown; convert it to 8 or 16 bits"
        )
    return image


def resize_rgb(image: Image.Image, size: int, fit: str) -> Image.Image:
    """Resize to ``size`` x ``size`` pixels, bilinear with antialiasing.

    ``fit="crop"`` scales the shorter side to ``size`` and crops the centre, as torchvision's
    Resize and CenterCrop do, to within one level; ``fit="squash"`` ignores the aspect ratio.
    """
    if fit == "squash":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    shorter = min(image.size)
    width, height = (int(size * side / shorter) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    # The part of the image that the crop shows: of a long strip the rest would take all memory.
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)
