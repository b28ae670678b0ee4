"""How large an image may be, and how many pixels so many bytes can hold: judged from the header, before decoding."""

from lance_pipeline.imaging.rejection import UndecodableImageError

MAX_PIXELS = 178_956_970
"""A 16-bit RGB image of this size takes about 1 GB; larger ones are refused from the header."""
MAX_SIDE = 1 << 20
"""OpenCV's limit too. Decoders keep some 24 bytes for each row, however short it is."""
SMALL_PIXELS = 1 << 20
"""Images of so many pixels are decoded whatever their header claims: that takes milliseconds and some 20 MB."""
MAX_CHUNKS = 1 << 19
"""Parts of a file that are passed over one by one, by Python and by decoders; each takes about a microsecond."""

# Up to so many pixels it is cheaper to decode than to doubt: the decoder says more precisely what is missing.
_FREE_PIXELS = 1 << 24
# Coders that describe any uniform image in a few bytes may claim so many, 8192 x 8192, without more bytes to show.
_UNIFORM_PIXELS = 1 << 26
DEFLATE_RATIO = 1032
"""Bytes that a byte of deflate can unpack to: 258 for two bits. Source: zlib.net, "zlib Technical Details"."""


def check_size(width: int, height: int) -> None:
    """Refuse what is larger than any image may be.

    Raises:
        UndecodableImageError: ``too_large``.
    """
    if width * height > MAX_PIXELS:
        raise UndecodableImageError(
            "too_large", f"{width}x{height} pixels are more than the limit of {MAX_PIXELS} pixels"
        )
    if max(width, height) > MAX_SIDE:
        raise UndecodableImageError(
            "too_large", f"{width}x{height} pixels: a side is longer than the limit of {MAX_SIDE} pixels"
        )


def check_plausible(width: int, height: int, size: int, ratio: float | None) -> None:
    """Refuse a claim that the file cannot hold.

    Args:
        width: as the header claims.
        height: likewise.
        size: of the file, in bytes.
        ratio: the most pixels that a byte can stand for in this encoding; None where there is no such bound.

    Raises:
        UndecodableImageError: ``suspicious``.
    """
    free = _FREE_PIXELS if ratio else _UNIFORM_PIXELS
    ratio = ratio or DEFLATE_RATIO
    if width * height > max(free, ratio * size):
        raise UndecodableImageError(
            "suspicious",
            f"the header claims {width}x{height} pixels, but {size} bytes hold at most {round(ratio * size)} of them "
            f"in this format; from {free} pixels on such claims are not decoded",
        )
