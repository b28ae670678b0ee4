"""Recognition of plain JPEG and PNG files, for which every decoder gives the same pixels.

A file is plain if its header requires nothing beyond decoding to RGB: no orientation, no
transparency, no colour space other than YCbCr, RGB or grey, no depth other than 8 bits. In doubt it is not plain.
"""

import struct
import zlib
from typing import NamedTuple

from lance_pipeline.imaging.formats.jpeg import MAX_SEGMENTS
from lance_pipeline.imaging.formats.tiff import Directory
from lance_pipeline.imaging.limits import MAX_CHUNKS
from lance_pipeline.imaging.rejection import UndecodableImageError

Encoded = bytes | memoryview
"""The bytes of an image file."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks that do not affect Pillow's conversion to RGB.
_HARMLESS_CHUNKS = {
    b"IDAT", b"IEND", b"PLTE", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"pHYs", b"tIME", b"bKGD", b"tEXt",
}  # fmt: skip
# ImageMagick stores EXIF data, which may contain an orientation, in such texts.
_RAW_PROFILE = b"Raw profile type"
_CHUNK_HEAD = struct.Struct(">I4s")
# JPEG: the start of a segment, and of the content of a frame header.
_SEGMENT_HEAD, _FRAME_HEAD = struct.Struct(">BBH"), struct.Struct(">BHHB")
# PNG: from the signature through the first chunk to the head of the second.
_PNG_HEAD = struct.Struct(">16sIIBB7xI4s")
_PNG_BEGINNING, _PNG_END = _PNG_SIGNATURE + b"\0\0\0\rIHDR", b"\0\0\0\0IEND\xaeB`\x82"
_GREY, _RGB, _PALETTE = 0, 2, 3

_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_SCAN, _APP1, _APP2, _ADOBE = 0xDA, 0xE1, 0xE2, 0xEE
_RELEVANT_MARKERS = (_APP1, _APP2, _ADOBE)
_ADOBE_YCBCR = 1
_SHORT = 3
ORIENTATION = 0x0112
"""The EXIF tag of the orientation."""
BROKEN = (
    OSError, ValueError, SyntaxError, EOFError, RuntimeError, TypeError, LookupError, AttributeError, ArithmeticError,
    AssertionError, struct.error,
)  # fmt: skip
"""The errors that Pillow raises for damaged files."""


class PlainHeader(NamedTuple):
    """The header of a plain image.

    Attributes:
        width: in pixels.
        height: in pixels.
        height_at: position of the two bytes of the height in a JPEG whose rows are stored in order; otherwise 0.
        frame_at: position of the frame header's content in a JPEG; otherwise 0.
    """

    width: int
    height: int
    height_at: int = 0
    frame_at: int = 0


def plain_png(data: Encoded) -> PlainHeader | None:
    """The header of a plain PNG, or None.

    Source: "Portable Network Graphics (PNG) Specification", W3C, section 5 and 11.
    """
    if len(data) < _PNG_HEAD.size:
        return None
    beginning, width, height, depth, colour, size, kind = _PNG_HEAD.unpack_from(data)
    if beginning != _PNG_BEGINNING or depth != 8 or colour not in (_GREY, _RGB, _PALETTE):
        return None
    position = _PNG_HEAD.size - _CHUNK_HEAD.size
    # Most small images have only these three chunks. The decoder verifies the checksums of header and pixels.
    plain = kind == b"IDAT" and position + 12 + size + len(_PNG_END) == len(data) and data[-len(_PNG_END) :] == _PNG_END
    return PlainHeader(width, height) if plain or _harmless_chunks(bytes(data), position) else None


def _harmless_chunks(data: bytes, position: int) -> bool:
    """Whether the chunks from ``position`` to the end are intact and do not affect the pixels."""
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data):
            return False
        size, kind = _CHUNK_HEAD.unpack_from(data, position)
        if kind not in _HARMLESS_CHUNKS or data.startswith(_RAW_PROFILE, position + 8):
            return False
        end = position + 8 + size
        if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        if kind == b"IEND":
            return True
        position = end + 4
    return False


def plain_jpeg(data: Encoded) -> PlainHeader | None:
    """The header of a plain JPEG, or None.

    Source: ITU-T T.81, annex B; the Adobe marker: Adobe Technical Note 5116.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    header, components, position, last = None, 0, 2, len(data) - _SEGMENT_HEAD.size
    for _ in range(MAX_SEGMENTS):
        if position > last:
            break
        begin, marker, size = _SEGMENT_HEAD.unpack_from(data, position)
        if begin != 0xFF:
            break
        if marker == _SCAN:
            whole = header is not None and data[position + 4 : position + 5] == bytes([components])
            return header if whole or header is None else header._replace(height_at=0)
        if marker in (_BASELINE, _EXTENDED, _PROGRESSIVE):
            if position + 10 > len(data):
                return None
            depth, height, width, components = _FRAME_HEAD.unpack_from(data, position + 4)
            if depth != 8 or components not in (1, 3) or not width or not height:
                return None
            height_at = 0 if marker == _PROGRESSIVE else position + 5
            header = PlainHeader(width, height, height_at, position + 4)
        elif marker in _RELEVANT_MARKERS and not _harmless(marker, bytes(data[position + 4 : position + 2 + size])):
            return None
        position += 2 + size
    return None


def _harmless(marker: int, segment: bytes) -> bool:
    """Whether an application segment does not affect the pixels."""
    if marker == _ADOBE:
        return not segment.startswith(b"Adobe") or (len(segment) >= 12 and segment[11] == _ADOBE_YCBCR)
    if marker == _APP2:
        return not segment.startswith(b"MPF\0")
    if not segment.startswith(b"Exif\0"):
        return b"Orientation" not in segment
    if ORIENTATION.to_bytes(2, "little") not in segment and ORIENTATION.to_bytes(2, "big") not in segment:
        return True
    try:
        directory = Directory.at(segment.removeprefix(b"Exif\0\0"))
    except UndecodableImageError:
        return False
    kind, _, _ = directory.tags.get(ORIENTATION, (_SHORT, 1, 0)) if directory else (0, 0, 0)
    return bool(directory) and kind == _SHORT and directory.number(ORIENTATION, 1) == 1
