"""Limits of image size and of pixels per byte, checked by the header before decoding."""

from lance_pipeline.imaging.rejection import UndecodableImageError

MAX_PIXELS = 178_956_970
"""A 16-bit RGB image of this size takes about 1 GB; larger images are rejected by their header."""
MAX_SIDE = 1 << 20
"""Also OpenCV's limit. Decoders keep about 24 bytes per row, even for short rows."""
SMALL_PIXELS = 1 << 20
"""Images of up to this many pixels are decoded without checks: that takes milliseconds and about 20 MB."""
MAX_CHUNKS = 1 << 19
"""Limit of file parts that Python and decoders skip one by one; each takes about a microsecond."""

# Up to this many pixels the claim is not checked: decoding is cheap, and the decoder reports missing data better.
_FREE_PIXELS = 1 << 24
# The same for encodings that describe any uniform image in a few bytes: 8192 x 8192.
_UNIFORM_PIXELS = 1 << 26
DEFLATE_RATIO = 1032
"""Maximum expansion of deflate: 258 bytes for two bits. Source: zlib.net, "zlib Technical Details"."""


def check_size(width: int, height: int) -> None:
    """Reject an image that exceeds the size limits.

    Raises:
        UndecodableImageError: ``too_large``.
    """
    if width * height > MAX_PIXELS:
        raise UndecodableImageError("too_large", f"{width}x{height} pixels exceed the limit of {MAX_PIXELS} pixels")
    if max(width, height) > MAX_SIDE:
        raise UndecodableImageError(
            "too_large", f"{width}x{height} pixels: a side exceeds the limit of {MAX_SIDE} pixels"
        )


def check_plausible(width: int, height: int, size: int, ratio: float | None) -> None:
    """Reject an image whose header claims more pixels than its bytes can encode.

    Args:
        width: as claimed by the header, in pixels.
        height: likewise.
        size: of the file, in bytes.
        ratio: upper bound of pixels per byte in this encoding; None if there is no bound.

    Raises:
        UndecodableImageError: ``suspicious``.
    """
    free = _FREE_PIXELS if ratio else _UNIFORM_PIXELS
    ratio = ratio or DEFLATE_RATIO
    if width * height > max(free, ratio * size):
        raise UndecodableImageError(
            "suspicious",
            f"the header claims {width}x{height} pixels, but {size} bytes can encode at most {round(ratio * size)} of "
            f"them in this format; above {free} pixels such files are not decoded",
        )
