"""Format-specific checks without decoding: whether an image is complete, and what it would cost to decode.

Pillow decodes some truncated files, leaving the missing pixels black, grey or in the background colour, and it trusts
headers. Each module covers one format or several similar ones; this one selects the checks for a file.
"""

from collections.abc import Callable

from PIL import Image

from lance_pipeline.imaging.formats.boxes import (
    avif_ends_early,
    check_avif,
    check_jpeg2000,
    jpeg2000_ends_early,
    webp_ends_early,
    webp_size,
)
from lance_pipeline.imaging.formats.gif import check_frame, check_gif
from lance_pipeline.imaging.formats.jpeg import check_jpeg
from lance_pipeline.imaging.formats.plain import (
    bitmap_ends_early,
    check_before_palette,
    check_claimed_size,
    check_icon_rows,
    check_netpbm,
    check_sgi_rows,
    icon_size,
    sgi_ends_early,
    without_comments,
)
from lance_pipeline.imaging.formats.png import SIGNATURE, check_png, check_rows, png_ends_early, with_plain_texts
from lance_pipeline.imaging.formats.tiff import check_exif, check_tiff, tiff_ends_early
from lance_pipeline.imaging.formats.tiff_strips import check_strips
from lance_pipeline.imaging.limits import check_size

_JPEG, _PNG, _GIF, _BMP = (b"\xff\xd8\xff",), (SIGNATURE,), (b"GIF87a", b"GIF89a"), (b"BM",)
_TIFF, _JPEG2000 = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), (b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")
_WEBP, _AVIF, _ICO, _SGI = b"WEBP", b"ftyp", b"\0\0\1\0", (b"\1\xda",)
# Parts of Pillow's messages about a stream that ends early.
_SHORT = ("truncated", "not enough image data", "buffer is not large enough", "expected to read", "reached eof")


def begins_like_image(data: bytes) -> bool:
    """Whether the file starts with the signature of a supported format."""
    return data.startswith(_JPEG + _PNG + _GIF + _BMP + _TIFF + _JPEG2000) or _is_webp(data) or data[4:8] == _AVIF


def check_header(data: bytes) -> tuple[int, int]:
    """Reject a file whose header shows that it is incomplete or implausible, before Pillow opens it.

    Returns:
        Width and height if opening the file allocates memory for all pixels; otherwise 0 and 0.

    Raises:
        UndecodableImageError: ``truncated``, ``corrupt``, ``suspicious`` or ``too_large``.
    """
    if _is_webp(data):
        return webp_size(data)
    if data.startswith(_ICO):
        return icon_size(data)
    for signatures, check in _CHECKS:
        if data.startswith(signatures):
            check(data)
    if data[4:8] == _AVIF:
        check_avif(data)
    return 0, 0


def for_pillow(data: bytes) -> bytes:
    """The same image, without text and comments that Pillow rejects or reads too slowly.

    Raises:
        UndecodableImageError: ``suspicious``.
    """
    return without_comments(with_plain_texts(data))


def check_opened(data: bytes, image: Image.Image) -> None:
    """Reject an implausible image by the header that Pillow has read, before it is decoded.

    Raises:
        UndecodableImageError: as :func:`check_header`.
    """
    check_size(*image.size)
    if image.format in _CHECKED_AFTER_OPENING:
        check_claimed_size(data, image)


def check_decoded(data: bytes, image: Image.Image) -> None:
    """Reject an image that Pillow has decoded although it was incomplete.

    Raises:
        UndecodableImageError: ``truncated``, or ``suspicious`` for its EXIF data.
    """
    check_exif(_exif(image))
    if image.format == "PNG":
        check_rows(data, image)
    elif image.format == "GIF":
        check_frame(data, image)
    elif image.format == "ICO":
        check_icon_rows(data)
    elif image.format == "TIFF":
        check_strips(data, image)
    elif image.format == "PCX":
        check_before_palette(data)
    elif image.format == "SGI":
        check_sgi_rows(data)


def _exif(image: Image.Image) -> bytes:
    """The EXIF data that Pillow is going to read; ImageMagick stores it in a text chunk."""
    exif, text = image.info.get("exif", b""), image.info.get("Raw profile type exif", "")
    if exif or not isinstance(text, str):
        return exif
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return b""


def is_short(data: bytes, error: Exception) -> bool:
    """Whether Pillow failed because the file ends early."""
    if isinstance(error, EOFError) or any(text in str(error).lower() for text in _SHORT):
        return True
    for signatures, ends in _ENDS_EARLY:
        if data.startswith(signatures):
            return ends(data)
    return (_is_webp(data) and webp_ends_early(data)) or (data[4:8] == _AVIF and avif_ends_early(data))


def _is_webp(data: bytes) -> bool:
    return data.startswith(b"RIFF") and data[8:12] == _WEBP


_CHECKS: tuple[tuple[tuple[bytes, ...], Callable[[bytes], None]], ...] = (
    (_JPEG, check_jpeg),
    (_PNG, check_png),
    (_GIF, check_gif),
    (_TIFF, check_tiff),
    (_JPEG2000, check_jpeg2000),
    ((b"P",), check_netpbm),
)
_ENDS_EARLY: tuple[tuple[tuple[bytes, ...], Callable[[bytes], bool]], ...] = (
    (_PNG, png_ends_early),
    (_TIFF, tiff_ends_early),
    (_BMP, bitmap_ends_early),
    (_SGI, sgi_ends_early),
    (_JPEG2000, jpeg2000_ends_early),
)
_CHECKED_AFTER_OPENING = {"BMP", "DIB", "PCX", "TGA", "SGI", "AVIF"}
__all__ = ["begins_like_image", "check_decoded", "check_header", "check_opened", "for_pillow", "is_short"]
