"""Formats made of boxes with explicit lengths: WebP, AVIF and JPEG 2000.

Source: Google, "WebP Container Specification"; RFC 6386; ISO/IEC 14496-12; ITU-T T.800, annexes A and I.
"""

import re
import struct
from collections.abc import Iterator

from lance_pipeline.imaging.formats.tiff import check_exif
from lance_pipeline.imaging.limits import check_plausible, check_size
from lance_pipeline.imaging.rejection import UndecodableImageError

# The modes of a macroblock of 16x16 pixels in a key frame, coded with fixed probabilities, take at least 3.4 bits.
_VP8_PIXELS_A_BYTE = 600
_TIFF_HEAD = re.compile(rb"II\*\0|MM\0\*")
_CODESTREAM, _SIZ, _SOT, _EOC = b"\xff\x4f\xff\x51", 0xFF51, 0xFF90, 0xFFD9
_LEAST_TILE_PART, _MARKED_END = 14, 1 << 16
_BOX = struct.Struct(">I4s")


def webp_size(data: bytes) -> tuple[int, int]:
    """Read and check the width and height in the header of a WebP; 0 if it cannot be read.

    Raises:
        UndecodableImageError: ``suspicious`` or ``too_large``.
    """
    kind, width, height = data[12:16], 0, 0
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data.ljust(30, b"\0"), 26))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    check_size(width, height)
    check_plausible(width, height, len(data), _VP8_PIXELS_A_BYTE if kind == b"VP8 " else None)
    return width, height


def webp_ends_early(data: bytes) -> bool:
    """Whether the file is shorter than its header says."""
    return 8 + int.from_bytes(data[4:8], "little") > len(data)


def avif_ends_early(data: bytes) -> bool:
    """Whether a box of an AVIF extends past the end of the file, or the image box is missing."""
    found = list(_boxes(data, 0, len(data)))
    return any(end > len(data) for _, _, end in found) or not {b"meta", b"mdat"} <= {kind for kind, _, _ in found}


def check_avif(data: bytes) -> None:
    """Reject an AVIF with implausible EXIF data, which Pillow reads when it opens the file.

    Raises:
        UndecodableImageError: ``suspicious``.
    """
    for head in _TIFF_HEAD.finditer(data):
        check_exif(data[head.start() :])


def _boxes(data: bytes, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start of the content and end of each of the consecutive boxes."""
    while begin + _BOX.size <= end:
        size, kind = _BOX.unpack_from(data, begin)
        content = begin + _BOX.size
        if size == 1:
            size, content = int.from_bytes(data[content : content + 8], "big"), content + 8
        following = begin + size if size else end
        if following <= begin:
            return
        yield kind, content, following
        begin = following


def check_jpeg2000(data: bytes) -> None:
    """Reject a JPEG 2000 file with missing or incomplete tiles.

    Raises:
        UndecodableImageError: ``truncated``, ``suspicious`` or ``too_large``.
    """
    begin = 0
    if not data.startswith(_CODESTREAM):
        begin = next((content for kind, content, _ in _boxes(data, 0, len(data)) if kind == b"jp2c"), len(data))
    if begin + 42 > len(data):
        raise UndecodableImageError("truncated", f"its {len(data)} bytes end before the image")
    if not data.startswith(_CODESTREAM, begin):
        return
    right, bottom, left, top, *tile = struct.unpack_from(">8I", data, begin + 8)
    width, height = max(right - left, 0), max(bottom - top, 0)
    check_size(width, height)
    check_plausible(width, height, len(data), None)
    tile_width, tile_height, tile_left, tile_top = tile
    if not tile_width or not tile_height:
        return
    expected = -((tile_left - right) // tile_width) * -((tile_top - bottom) // tile_height)
    parts = _tile_parts(data, begin + 2)
    there = sum(number >= of for number, of in parts.values())
    if there < expected:
        raise UndecodableImageError("truncated", f"only {there} of {expected} tiles are complete")


def jpeg2000_ends_early(data: bytes) -> bool:
    """Whether the end marker of the image is missing; only a box or two may follow it."""
    return b"\xff\xd9" not in data[-_MARKED_END:]


def _tile_parts(data: bytes, position: int) -> dict[int, tuple[int, int]]:
    """For each tile, the number of its complete parts and of all parts; the latter is 0 if not specified."""
    parts: dict[int, tuple[int, int]] = {}
    while position + 12 <= len(data):
        marker, size = struct.unpack_from(">HH", data, position)
        if marker == _EOC:
            break
        if marker != _SOT:
            position += 2 + size
            continue
        number, length, _, of = struct.unpack_from(">HIBB", data, position + 4)
        # The length of the last part may be omitted.
        position = position + length if length else len(data)
        if position > len(data):
            raise UndecodableImageError("truncated", f"tile {number} ends after byte {len(data)}, the last one")
        complete, total = parts.get(number, (0, 0))
        parts[number] = complete + 1, max(of, total)
        if 0 < length < _LEAST_TILE_PART:
            break
    return parts
