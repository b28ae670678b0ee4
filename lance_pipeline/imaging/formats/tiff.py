"""TIFF, and EXIF data, which consist of TIFF directories: whether the tags are plausible.

Source: Adobe, "TIFF Revision 6.0"; "BigTIFF Design", libtiff.
"""

import struct
from typing import NamedTuple, Self

from lance_pipeline.imaging.limits import DEFLATE_RATIO, check_plausible, check_size
from lance_pipeline.imaging.rejection import UndecodableImageError

_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_CODES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_SHORTEST = 16
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _SAMPLES, _STRIP_COUNTS, _PLANAR = 273, 277, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 322, 323, 324, 325
# EXIF, GPS, interoperability.
_SUBDIRECTORIES = (34665, 34853, 40965)
_NONE, _YCBCR, _PLANES_APART = 1, 6, 2
_FAX = (2, 3, 4)
# Upper bounds of pixels per byte, by compression. An unpacked byte may hold 8 pixels, and an LZW code of one and a half
# bytes stands for up to 3837 bytes. Other compressions have no bound.
_PIXELS_A_BYTE = {
    1: 8, 5: 8 * 2558, 6: 256, 7: 512, 8: 8 * DEFLATE_RATIO, 32946: 8 * DEFLATE_RATIO, 32773: 8 * 64,
}  # fmt: skip
# Tags may share values, and counts may be wrong, but thousands of tags with the same bytes would fill the memory.
_MOST_SHARED, _FREE_BYTES = 4, 1 << 24
# A tile is decoded completely, even if only a small part of it is in the image.
_TILE_PIXELS = 1 << 24


class Directory(NamedTuple):
    """The tags of an image, each with the type, count and position of its values."""

    data: bytes
    order: str
    tags: dict[int, tuple[int, int, int]]

    @classmethod
    def at(cls, data: bytes, offset: int | None = None) -> Self | None:
        """The directory at ``offset``, by default the first one; None if ``data`` are not a TIFF.

        Raises:
            UndecodableImageError: ``truncated``: the directory is incomplete.
        """
        order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
        if not order or len(data) < _SHORTEST:
            return None
        big = struct.unpack_from(order + "H", data, 2)[0] == 43
        head, count, entry = ("8xQ", "Q", "HHQ8s") if big else ("4xI", "H", "HHI4s")
        at = struct.unpack_from(order + head, data)[0] if offset is None else offset
        begin = at + struct.calcsize(order + count)
        if begin > len(data):
            raise UndecodableImageError("truncated", f"its tags would be at byte {at} of {len(data)}")
        (entries,) = struct.unpack_from(order + count, data, at)
        size = struct.calcsize(order + entry)
        if begin + entries * size > len(data):
            raise UndecodableImageError("truncated", f"its {entries} tags extend past its end at byte {len(data)}")
        tags = {}
        for number in range(entries):
            place = begin + number * size
            tag, kind, values, inline = struct.unpack_from(order + entry, data, place)
            at = place + size - len(inline)
            if values * _TYPE_SIZES.get(kind, 1) > len(inline):
                at = int.from_bytes(inline, "little" if order == "<" else "big")
            tags[tag] = kind, values, at
        return cls(data, order, tags)

    def numbers(self, tag: int, *default: int) -> tuple[int, ...]:
        """The values of an integer tag; ``default`` if it is absent or of another type."""
        kind, count, at = self.tags.get(tag, (0, 0, 0))
        if kind not in _CODES or at + count * _TYPE_SIZES[kind] > len(self.data):
            return default
        return struct.unpack_from(f"{self.order}{count}{_CODES[kind]}", self.data, at) or default

    def number(self, tag: int, default: int) -> int:
        """The first value of an integer tag."""
        return self.numbers(tag, default)[0]

    def nbytes(self, depth: int = 2) -> int:
        """The number of bytes that a reader of all tags reads, including EXIF subdirectories."""
        own = sum(
            max(min(values * _TYPE_SIZES.get(kind, 1), len(self.data) - at), 0)
            for kind, values, at in self.tags.values()
        )
        if not depth:
            return own
        below = [self.at(self.data, self.number(tag, 0)) for tag in _SUBDIRECTORIES if self.number(tag, 0)]
        return own + sum(one.nbytes(depth - 1) for one in below if one)


def check_exif(block: bytes) -> None:
    """Reject EXIF data whose tags expand to far more bytes than there are; unreadable data are accepted.

    Raises:
        UndecodableImageError: ``suspicious``.
    """
    block = block.removeprefix(b"Exif\0\0")
    try:
        directory = Directory.at(block)
        needed = directory.nbytes() if directory else 0
    except UndecodableImageError:
        return
    if needed > _MOST_SHARED * len(block) + _FREE_BYTES:
        raise UndecodableImageError("suspicious", f"its tags claim {needed} bytes, but there are only {len(block)}")


def check_tiff(data: bytes) -> None:
    """Reject a TIFF with implausible tags.

    Raises:
        UndecodableImageError: ``truncated``, ``suspicious`` or ``too_large``.
    """
    directory = Directory.at(data)
    if directory is None:
        return
    check_exif(data)
    width, height = directory.number(_WIDTH, 0), directory.number(_HEIGHT, 0)
    check_size(width, height)
    compression = directory.number(_COMPRESSION, _NONE)
    # In T.6, one bit encodes a row that equals the row above.
    ratio = 8 * width if compression in _FAX else _PIXELS_A_BYTE.get(compression)
    check_plausible(width, height, len(data), ratio)
    tile = directory.number(_TILE_WIDTH, 0), directory.number(_TILE_HEIGHT, 0)
    if tile[0] * tile[1] > max(_TILE_PIXELS, 4 * width * height):
        raise UndecodableImageError(
            "suspicious", f"tiles of {tile[0]}x{tile[1]} pixels for an image of {width}x{height} pixels"
        )
    if compression == _NONE and directory.number(_PHOTOMETRIC, 0) != _YCBCR and _STRIP_COUNTS in directory.tags:
        needed, there = _raw_size(directory, width, height), sum(directory.numbers(_STRIP_COUNTS))
        # Some writers leave the counts at zero.
        if 0 < there < needed:
            raise UndecodableImageError("truncated", f"{there} bytes of pixels for {width}x{height}, not {needed}")


def tiff_ends_early(data: bytes) -> bool:
    """Whether strips, tiles or tag values extend past the end of the file."""
    try:
        directory = Directory.at(data)
    except UndecodableImageError:
        return True
    if directory is None:
        return len(data) < _SHORTEST
    for offsets, counts in ((_STRIP_OFFSETS, _STRIP_COUNTS), (_TILE_OFFSETS, _TILE_COUNTS)):
        ends = zip(directory.numbers(offsets), directory.numbers(counts), strict=False)
        if any(offset + count > len(data) for offset, count in ends):
            return True
    return any(at + values * _TYPE_SIZES.get(kind, 1) > len(data) for kind, values, at in directory.tags.values())


def _raw_size(directory: Directory, width: int, height: int) -> int:
    bits, samples = directory.number(_BITS, 1), directory.number(_SAMPLES, 1)
    if directory.number(_PLANAR, 1) == _PLANES_APART:
        return samples * height * ((width * bits + 7) // 8)
    return height * ((width * bits * samples + 7) // 8)
