"""Encoded bytes to RGB pixels: the one place where an image is decoded.

Pillow is the reference for what the pixels are. Plain JPEG and PNG files, recognised by their
headers, go through faster decoders that give the same pixels; whatever those refuse or might see
otherwise is Pillow's to judge. What Pillow would take although it ends early, or costs far more than
its bytes can be worth, is refused by what :mod:`lance_pipeline.imaging.formats` knows of its format.
"""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NamedTuple, TypeVar, cast

import cv2
import numpy as np
import PIL
import simplejpeg
from cv2.typing import MatLike
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lance_pipeline.imaging.formats import (
    begins_like_image,
    check_decoded,
    check_header,
    check_opened,
    for_pillow,
    is_short,
)
from lance_pipeline.imaging.formats.jpeg import check_decodes, check_scans
from lance_pipeline.imaging.headers import BROKEN, ORIENTATION, Encoded, PlainHeader, plain_jpeg, plain_png
from lance_pipeline.imaging.limits import SMALL_PIXELS
from lance_pipeline.imaging.memory_budget import default_budget
from lance_pipeline.imaging.rejection import UndecodableImageError
from lance_pipeline.imaging.rgb import to_rgb
from lance_pipeline.imaging.scratch import Scratch
from lance_pipeline.storage.transparency import TRANSPARENCY, Transparency

# Changes where other files are rejected than before: what other rules rejected is judged again.
_RULES = 2
DECODERS = f"pillow {PIL.__version__}, opencv {cv2.__version__}, simplejpeg {simplejpeg.__version__}, rules {_RULES}"
# How OpenCV turns an image of each EXIF orientation upright. Source: JEITA CP-3451 (Exif 2.3), 4.6.4.
_TURNS: dict[int, Callable[[MatLike], MatLike]] = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
# Of Pillow's formats those that hold one picture in pixels; EPS, for one, would start Ghostscript.
_FORMATS = (
    "JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "AVIF", "JPEG2000", "PPM", "PCX", "TGA", "ICO", "SGI",
)  # fmt: skip
# The most memory that decoding takes, in bytes a pixel: by the fast decoders, where libjpeg keeps all coefficients, and
# by Pillow, whose plugins and conversions keep copies. Measuring the pixels afterwards takes no more.
_FAST_BYTES, _COEFFICIENTS_BYTES, _PILLOW_BYTES = 7, 13, 20
_COSTLY_BYTES: dict[str, int] = dict.fromkeys(("WEBP", "AVIF", "JPEG2000"), 28)

# libjpeg leaves out frequencies to decode at these fractions of the size; others are slower than the whole.
_SCALES = (8, 4, 2)
# Rows below those that are needed: of colours at half the resolution the last ones are interpolated with the next.
_MARGIN = 4
# libjpeg's warning of data after the last row.
_TOO_MUCH = "extraneous bytes before marker"

# The threads of an ingest or a loader are the parallelism; OpenCV's own would get in their way.
cv2.setNumThreads(1)
Image.init()
# For pixels, and for encoded images whose header is changed.
_scratch, _changed = Scratch(), Scratch()
_memory = default_budget()
KNOWN_FORMATS = [name for name in _FORMATS if name in Image.OPEN]
"""Pillow's names of the formats that are read."""
_T = TypeVar("_T")


class DecodedImage(NamedTuple):
    """``pixels`` is uint8 RGB of shape (height, width, 3); ``format`` is Pillow's name of the encoding."""

    pixels: NDArray[np.uint8]
    format: str


def decode_image(data: Encoded, transparency: Transparency = TRANSPARENCY) -> DecodedImage:
    """Decode an encoded image to 8-bit RGB, upright by its EXIF orientation.

    Greyscale, palette and other modes are converted to RGB as Pillow does, 16 bits are scaled to 8; of an animation the
    first frame is taken. What is too large, or claims more pixels than its bytes can hold, is refused before it is
    decoded; large images wait until others leave memory for them.

    Args:
        data: of the file.
        transparency: what transparent pixels become.

    Raises:
        UndecodableImageError: empty, not an image, truncated, corrupt, unsupported, suspicious or too large.
    """
    return decode_and_use(data, _unchanged, transparency)


def decode_and_use(data: Encoded, use: Callable[[DecodedImage], _T], transparency: Transparency = TRANSPARENCY) -> _T:
    """Decode as :func:`decode_image`, and hand the image over while the memory for it is still reserved.

    Args:
        data: of the file.
        use: is given the image; it must not decode another.
        transparency: what transparent pixels become.

    Returns:
        What ``use`` returns.

    Raises:
        UndecodableImageError: as :func:`decode_image`.
    """
    if not data:
        raise UndecodableImageError("empty", "the file is empty")
    if header := plain_jpeg(data):
        kind, decode = "JPEG", _decode_jpeg
    elif header := plain_png(data):
        kind, decode = "PNG", _decode_png
    else:
        return _decode_by_pillow(data, use, transparency)
    if header.width * header.height <= SMALL_PIXELS:
        pixels = decode(data, header)
        if pixels is not None:
            return use(DecodedImage(pixels, kind))
    else:
        with _room_for(data, header, kind):
            pixels = decode(data, header)
            if pixels is not None:
                return use(DecodedImage(pixels, kind))
    return _decode_by_pillow(data, use, transparency)


def _unchanged(image: DecodedImage) -> DecodedImage:
    return image


def _room_for(data: Encoded, header: PlainHeader, kind: str) -> AbstractContextManager[None]:
    """Reserve the memory for a large plain image whose header can be true."""
    check_header(bytes(data))
    nbytes = _COEFFICIENTS_BYTES if kind == "JPEG" and not header.height_at else _FAST_BYTES
    return _memory.reserved(nbytes * header.width * header.height)


def decode_scaled(data: Encoded, header: PlainHeader, least_height: float, least_width: float) -> NDArray[np.uint8]:
    """A plain JPEG at the smallest of the cheap scales that leaves it at least so large: uint8 (height, width, 3).

    Raises:
        UndecodableImageError: as :func:`decode_image`.
    """
    scale = _scale(header, least_height, least_width)
    if header.width * header.height <= SMALL_PIXELS:
        pixels = _decode_jpeg(data, header, scale)
    else:
        with _room_for(data, header, "JPEG"):
            pixels = _decode_jpeg(data, header, scale)
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


def decode_top(data: Encoded, header: PlainHeader, least_height: float, least_width: float, bottom: int) -> Top:
    """As :func:`decode_scaled`, but only the rows of the image above ``bottom``; what is below need not be sound.

    Raises:
        UndecodableImageError: as :func:`decode_image`.
    """
    scale = _scale(header, least_height, least_width)
    rows = min(bottom + _MARGIN * scale, header.height) if header.height_at else header.height
    shape = -(-rows // scale), -(-header.width // scale), 3
    if header.width * header.height <= SMALL_PIXELS:
        pixels = _decode_rows(data, header, rows, shape)
    else:
        with _room_for(data, header, "JPEG"):
            pixels = _decode_rows(data, header, rows, shape)
    if pixels is None:
        pixels = _decode_by_pillow(data).pixels
        return Top(pixels, *pixels.shape[:2])
    return Top(pixels, -(-header.height // scale), pixels.shape[1])


def _scale(header: PlainHeader, least_height: float, least_width: float) -> int:
    for scale in _SCALES:
        if -(-header.height // scale) >= least_height and -(-header.width // scale) >= least_width:
            return scale
    return 1


def decode_rgb(data: Encoded, transparency: Transparency = TRANSPARENCY) -> Image.Image:
    """The same as a Pillow image of mode RGB.

    Raises:
        UndecodableImageError: as :func:`decode_image`.
    """
    return Image.fromarray(decode_image(data, transparency).pixels)


def _decode_jpeg(data: Encoded, header: PlainHeader, scale: int = 1) -> NDArray[np.uint8] | None:
    if header.frame_at and not header.height_at:
        check_scans(bytes(data), header.frame_at)
    return _decode_strictly(data, -(-header.height // scale), -(-header.width // scale))


def _decode_strictly(data: Encoded, height: int, width: int) -> NDArray[np.uint8] | None:
    try:
        return simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)
    except ValueError:
        # It is strict about whatever libjpeg warns of: others tell the harmless from the broken.
        return None


def _decode_rows(
    data: Encoded, header: PlainHeader, rows: int, shape: tuple[int, int, int]
) -> NDArray[np.uint8] | None:
    """So many rows, at the scale that gives them this shape; None where Pillow is to judge."""
    source: Encoded | NDArray[np.uint8] = data
    if header.frame_at and not header.height_at:
        check_scans(bytes(data), header.frame_at)
    elif rows < header.height:
        # If the header says that the image has no others, libjpeg stops there: in a baseline JPEG they come in order.
        source = _changed.array(len(data))
        # Unlike a copy of bytes, this leaves Python's lock to others.
        np.copyto(source, np.frombuffer(data, np.uint8))
        source[header.height_at], source[header.height_at + 1] = divmod(rows, 256)
    pixels = _scratch.array(*shape)
    try:
        simplejpeg.decode_jpeg(source, "RGB", min_height=shape[0], min_width=shape[1], buffer=pixels)
    except ValueError as error:
        # It tells of the first warning: nothing is wrong with the rows before those that are too many.
        return pixels if rows < header.height and _TOO_MUCH in str(error) else None
    return pixels


def _decode_png(data: Encoded, header: PlainHeader) -> NDArray[np.uint8] | None:
    del header
    try:
        pixels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        return None
    return pixels


def _decode_by_pillow(
    data: Encoded, use: Callable[[DecodedImage], _T] = _unchanged, transparency: Transparency = TRANSPARENCY
) -> _T:
    with ExitStack() as room:
        return use(_pillow_image(bytes(data), room, transparency))


def _pillow_image(data: bytes, room: ExitStack, transparency: Transparency) -> DecodedImage:
    width, height = check_header(data)
    try:
        if width * height > SMALL_PIXELS:
            room.enter_context(_memory.reserved(_COSTLY_BYTES["WEBP"] * width * height))
        with Image.open(io.BytesIO(for_pillow(data)), formats=KNOWN_FORMATS) as image:
            check_opened(data, image)
            kind = image.format or ""
            if not width and image.width * image.height > SMALL_PIXELS:
                nbytes = _COSTLY_BYTES.get(kind, _PILLOW_BYTES)
                room.enter_context(_memory.reserved(nbytes * image.width * image.height))
            pixels = _jpeg_of_pillow(data, image) if kind in ("JPEG", "MPO") else None
            if pixels is None:
                image.load()
                check_decoded(data, image)
                pixels = to_rgb(data, image, transparency)
            return DecodedImage(_upright(pixels, image), kind)
    except UndecodableImageError:
        raise
    except UnidentifiedImageError as error:
        if not begins_like_image(data):
            raise UndecodableImageError("not_an_image", "not an image in a format that is read here") from error
        if is_short(data, error):
            raise UndecodableImageError("truncated", f"its {len(data)} bytes end within its header") from error
        raise UndecodableImageError("corrupt", "it begins like an image, but its header cannot be read") from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise UndecodableImageError("too_large", str(error) or "there is not enough memory for it") from error
    except BROKEN as error:
        reason = "truncated" if is_short(data, error) else "corrupt"
        raise UndecodableImageError(reason, f"{type(error).__name__}: {error}") from error


def _jpeg_of_pillow(data: bytes, image: Image.Image) -> NDArray[np.uint8] | None:
    """The pixels of a JPEG that Pillow has opened, without its orientation; None where Pillow must decode it."""
    if image.mode != "CMYK":
        pixels = _decode_strictly(data, image.height, image.width)
        if pixels is not None:
            return pixels
    check_decodes(data)
    return None


def _upright(pixels: NDArray[np.uint8], image: Image.Image) -> NDArray[np.uint8]:
    """The pixels turned as the EXIF orientation says; as they lie where that cannot be read, as viewers show it."""
    try:
        turn = _TURNS.get(image.getexif().get(ORIENTATION, 1))
    except BROKEN:
        return pixels
    return pixels if turn is None else cast("NDArray[np.uint8]", turn(pixels))


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
