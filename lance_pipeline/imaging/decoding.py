"""Decoding of encoded bytes to RGB pixels; all images are decoded here.

Pillow defines the correct pixels. Plain JPEG and PNG files, recognised by their headers, are decoded
by faster decoders that give the same pixels; files that those reject, or might decode differently, are
decoded by Pillow. Files that Pillow would accept although they are truncated or cost far more to decode
than their size justifies are rejected by the format-specific checks in :mod:`lance_pipeline.imaging.formats`.
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

# Incremented whenever the set of rejected files changes: files rejected under other rules are examined again.
_RULES = 2
DECODERS = f"pillow {PIL.__version__}, opencv {cv2.__version__}, simplejpeg {simplejpeg.__version__}, rules {_RULES}"
# How to rotate an image of each EXIF orientation upright. Source: JEITA CP-3451 (Exif 2.3), 4.6.4.
_TURNS: dict[int, Callable[[MatLike], MatLike]] = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
# Pillow's raster formats; others are excluded, because EPS, for example, would start Ghostscript.
_FORMATS = (
    "JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "AVIF", "JPEG2000", "PPM", "PCX", "TGA", "ICO", "SGI",
)  # fmt: skip
# Peak memory of decoding in bytes per pixel: by the fast decoders, by libjpeg when it keeps all coefficients, and by
# Pillow, whose plugins and conversions keep copies. Measuring the pixels afterwards takes no more.
_FAST_BYTES, _COEFFICIENTS_BYTES, _PILLOW_BYTES = 7, 13, 20
_COSTLY_BYTES: dict[str, int] = dict.fromkeys(("WEBP", "AVIF", "JPEG2000"), 28)

# Reduction factors at which libjpeg skips frequencies; other factors are slower than decoding at full size.
_SCALES = (8, 4, 2)
# Extra rows to decode: with subsampled colours, the last rows are interpolated with the following ones.
_MARGIN = 4
# libjpeg's warning about data after the last row.
_EXTRA_DATA = "extraneous bytes before marker"

Image.init()
# Buffers for pixels, and for encoded images with a modified header.
_pixel_scratch, _encoded_scratch = Scratch(), Scratch()
_memory = default_budget()
KNOWN_FORMATS = [name for name in _FORMATS if name in Image.OPEN]
"""The supported formats, by Pillow's names."""
_T = TypeVar("_T")


class DecodedImage(NamedTuple):
    """``pixels`` is uint8 RGB of shape (height, width, 3); ``format`` is Pillow's name for the encoding."""

    pixels: NDArray[np.uint8]
    format: str


def decode_image(data: Encoded, transparency: Transparency = TRANSPARENCY) -> DecodedImage:
    """Decode an encoded image to 8-bit RGB, rotated upright by its EXIF orientation.

    Greyscale, palette and other modes are converted to RGB as in Pillow, and 16 bits are scaled to 8. Of an animation,
    only the first frame is decoded. Images that are too large, or claim more pixels than their bytes can encode, are
    rejected before decoding; large images wait until there is memory for them.

    Args:
        data: the content of the file.
        transparency: how to treat transparent pixels.

    Raises:
        UndecodableImageError: empty, not an image, truncated, corrupt, unsupported, suspicious or too large.
    """
    return decode_and_use(data, _unchanged, transparency)


def decode_and_use(data: Encoded, use: Callable[[DecodedImage], _T], transparency: Transparency = TRANSPARENCY) -> _T:
    """Decode like :func:`decode_image`, and call ``use`` while the memory for the image is still reserved.

    Args:
        data: the content of the file.
        use: called with the image; it must not decode another large image.
        transparency: how to treat transparent pixels.

    Returns:
        The result of ``use``.

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
    """Check the header of a large plain image, and reserve the memory to decode it."""
    check_header(bytes(data))
    nbytes = _COEFFICIENTS_BYTES if kind == "JPEG" and not header.height_at else _FAST_BYTES
    return _memory.reserve(nbytes * header.width * header.height)


def decode_scaled(data: Encoded, header: PlainHeader, least_height: float, least_width: float) -> NDArray[np.uint8]:
    """Decode a plain JPEG at the smallest efficient scale that has at least this size: uint8 (height, width, 3).

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
    """The upper part of an image at a reduced scale.

    Attributes:
        pixels: uint8 RGB (rows, width, 3), in a buffer that the thread's next ``decode_top`` overwrites.
        height: of the whole image at that scale, in pixels.
        width: likewise.
    """

    pixels: NDArray[np.uint8]
    height: int
    width: int


def decode_top(data: Encoded, header: PlainHeader, least_height: float, least_width: float, bottom: int) -> Top:
    """Like :func:`decode_scaled`, but decodes only the rows above ``bottom``; rows below it may be damaged.

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
    """Decode like :func:`decode_image`, to a Pillow image of mode RGB.

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
        # simplejpeg fails on every libjpeg warning: later checks distinguish harmless ones from damage.
        return None


def _decode_rows(
    data: Encoded, header: PlainHeader, rows: int, shape: tuple[int, int, int]
) -> NDArray[np.uint8] | None:
    """The first ``rows`` rows, at the scale that gives them this shape; None if Pillow must decode the image."""
    source: Encoded | NDArray[np.uint8] = data
    if header.frame_at and not header.height_at:
        check_scans(bytes(data), header.frame_at)
    elif rows < header.height:
        # Rows of a baseline JPEG are stored in order: with a smaller height in the header, libjpeg stops there.
        source = _encoded_scratch.array(len(data))
        # Unlike copying bytes, this releases the GIL.
        np.copyto(source, np.frombuffer(data, np.uint8))
        source[header.height_at], source[header.height_at + 1] = divmod(rows, 256)
    pixels = _pixel_scratch.array(*shape)
    try:
        simplejpeg.decode_jpeg(source, "RGB", min_height=shape[0], min_width=shape[1], buffer=pixels)
    except ValueError as error:
        # The error is the first warning: if it is about extra data, the decoded rows are intact.
        return pixels if rows < header.height and _EXTRA_DATA in str(error) else None
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
            room.enter_context(_memory.reserve(_COSTLY_BYTES["WEBP"] * width * height))
        with Image.open(io.BytesIO(for_pillow(data)), formats=KNOWN_FORMATS) as image:
            check_opened(data, image)
            kind = image.format or ""
            if not width and image.width * image.height > SMALL_PIXELS:
                nbytes = _COSTLY_BYTES.get(kind, _PILLOW_BYTES)
                room.enter_context(_memory.reserve(nbytes * image.width * image.height))
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
            raise UndecodableImageError("not_an_image", "not an image in a supported format") from error
        if is_short(data, error):
            raise UndecodableImageError("truncated", f"its {len(data)} bytes end within its header") from error
        raise UndecodableImageError("corrupt", "it starts like an image, but its header cannot be read") from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise UndecodableImageError("too_large", str(error) or "there is not enough memory for it") from error
    except BROKEN as error:
        reason = "truncated" if is_short(data, error) else "corrupt"
        raise UndecodableImageError(reason, f"{type(error).__name__}: {error}") from error


def _jpeg_of_pillow(data: bytes, image: Image.Image) -> NDArray[np.uint8] | None:
    """The pixels of a JPEG opened by Pillow, not yet rotated; None if Pillow must decode it."""
    if image.mode != "CMYK":
        pixels = _decode_strictly(data, image.height, image.width)
        if pixels is not None:
            return pixels
    check_decodes(data)
    return None


def _upright(pixels: NDArray[np.uint8], image: Image.Image) -> NDArray[np.uint8]:
    """The pixels rotated by the EXIF orientation; unchanged if it cannot be read, as in image viewers."""
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
    # Resize only the part that the crop shows: the rest of a very long image would take all memory.
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)
