"""PNG: whether all rows are present, and how much its texts unpack to.

Source: "Portable Network Graphics (PNG) Specification", W3C.
"""

import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from lance_pipeline.imaging.limits import DEFLATE_RATIO, MAX_CHUNKS, check_plausible, check_size
from lance_pipeline.imaging.rejection import UndecodableImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_IHDR = struct.Struct(">16xIIBB2xB")
_CHUNK_HEAD = struct.Struct(">I4s")
# Pillow's limit is 1 MiB; editors write longer compressed texts, and profiles may be larger.
MAX_TEXT = 16 << 20
"""Maximum size in bytes of an unpacked text or profile."""
_PILLOW_TEXT = 1 << 20
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Adam7: first column and row of each pass, and the steps to the next ones.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PACKED_PIECE, _PIECE = 1 << 16, 1 << 20


def check_png(data: bytes, begin: int = 0) -> None:
    """Reject a PNG with too few bytes for the size in its header, or with too many chunks.

    Args:
        data: contains the PNG from ``begin`` on.
        begin: the position of its signature.

    Raises:
        UndecodableImageError: ``suspicious`` or ``too_large``.
    """
    if len(data) < begin + _IHDR.size:
        return
    width, height, depth, colour, _ = _IHDR.unpack_from(data, begin)
    check_size(width, height)
    pixel_bits = depth * _SAMPLES.get(colour, 1)
    # Each row has an extra filter byte, which matters in narrow images.
    row_bytes = 1 + (width * pixel_bits + 7) // 8
    check_plausible(width, height, len(data), DEFLATE_RATIO * width / row_bytes)
    if sum(1 for _ in chunks(data, begin)) > MAX_CHUNKS:
        raise UndecodableImageError("suspicious", f"more than {MAX_CHUNKS} chunks")


def chunks(data: bytes, begin: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the content of each chunk; stops one chunk above the limit."""
    position = begin + len(SIGNATURE)
    for _ in range(MAX_CHUNKS + 1):
        if position + _CHUNK_HEAD.size > len(data):
            return
        size, kind = _CHUNK_HEAD.unpack_from(data, position)
        yield kind, position + 8, position + 8 + size
        if kind == b"IEND":
            return
        position += 12 + size


def with_plain_texts(data: bytes) -> bytes:
    """Unpack large texts of a PNG, which Pillow would reject, and remove large profiles.

    A text may contain the orientation; profiles do not affect the conversion to RGB.

    Raises:
        UndecodableImageError: ``suspicious``: a text unpacks to more than ``MAX_TEXT`` bytes.
    """
    if not data.startswith(SIGNATURE):
        return data
    parts, done = [], 0
    for kind, begin, end in chunks(data):
        if kind not in (b"zTXt", b"iTXt", b"iCCP"):
            continue
        replaced = _plain(kind, data[begin:end])
        if replaced is not None:
            parts += [data[done : begin - 8], replaced]
            done = end + 4
    return b"".join([*parts, data[done:]]) if parts else data


def _plain(kind: bytes, content: bytes) -> bytes | None:
    """The chunk without compression, empty for a profile; None if it needs no change."""
    key, _, rest = content.partition(b"\0")
    head, text = rest[:1], rest[1:]
    if kind == b"iTXt":
        language, _, following = rest[2:].partition(b"\0")
        translated, _, text = following.partition(b"\0")
        head = b"\0\0" + language + b"\0" + translated + b"\0"
        if rest[:1] != b"\1":
            return None
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(text, MAX_TEXT)
    except zlib.error:
        return None
    if unpacker.unconsumed_tail:
        raise UndecodableImageError(
            "suspicious", f"{kind.decode()} of {len(content)} bytes unpacks to more than {MAX_TEXT} bytes"
        )
    if len(plain) <= _PILLOW_TEXT:
        return None
    if kind == b"iCCP":
        return b""
    return _chunk(b"tEXt", key + b"\0" + plain) if kind == b"zTXt" else _chunk(kind, key + b"\0" + head + plain)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return _CHUNK_HEAD.pack(len(content), kind) + content + checksum.to_bytes(4, "big")


def check_rows(data: bytes, image: Image.Image | None = None) -> None:
    """Reject a PNG whose pixel data are truncated: Pillow leaves missing rows black.

    Args:
        data: the content of the file.
        image: the decoded image, if there is one: a last row that is not black proves that it is complete.

    Raises:
        UndecodableImageError: ``truncated``.
    """
    if len(data) < _IHDR.size:
        raise UndecodableImageError("truncated", f"{len(data)} bytes end within its header")
    width, height, depth, colour, interlaced = _IHDR.unpack_from(data)
    if image and not interlaced and any(image.crop((0, height - 1, width, height)).tobytes()):
        return
    pixel_bits = depth * _SAMPLES.get(colour, 1)
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    needed = 0
    for column, row, across, down in passes:
        columns, rows = -((column - width) // across), -((row - height) // down)
        if columns > 0 and rows > 0:
            needed += rows * (1 + (columns * pixel_bits + 7) // 8)
    there = _unpacked_size(data, needed)
    if there < needed:
        raise UndecodableImageError(
            "truncated", f"its pixels end after {there} of {needed} bytes, of {width}x{height} pixels"
        )


def png_ends_early(data: bytes) -> bool:
    """Whether rows are missing."""
    try:
        check_rows(data)
    except UndecodableImageError:
        return True
    return False


def _unpacked_size(data: bytes, enough: int) -> int:
    """The unpacked size of the pixel data in bytes; stops soon after ``enough`` bytes.

    Damaged data count as complete: the decoder reports them.
    """
    unpacker, size = zlib.decompressobj(), 0
    for kind, begin, end in chunks(data):
        if kind != b"IDAT":
            continue
        for start in range(begin, end, _PACKED_PIECE):
            packed = data[start : min(start + _PACKED_PIECE, end)]
            while packed and size < enough and not unpacker.eof:
                try:
                    size += len(unpacker.decompress(packed, _PIECE))
                except zlib.error:
                    return enough
                packed = unpacker.unconsumed_tail
    return size
