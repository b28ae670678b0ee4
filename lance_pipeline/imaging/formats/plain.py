"""Uncompressed and run-length encoded formats: Netpbm, BMP, ICO, PCX, TGA and SGI.

Source: the manual pages of Netpbm; Microsoft, "Bitmap Storage"; ZSoft, "PCX Technical Reference Manual"; Truevision,
"TGA File Format Specification", version 2.0; SGI, "The SGI Image File Format", version 1.0.
"""

import io
import re
import struct
from collections.abc import Iterator

from PIL import IcoImagePlugin, Image

from lance_pipeline.imaging.formats import png
from lance_pipeline.imaging.limits import MAX_CHUNKS, check_plausible, check_size
from lance_pipeline.imaging.rejection import UndecodableImageError

# Pillow reads headers byte by byte, and decodes numbers one by one in Python: 0.1 to 0.5 seconds per MB.
_MAX_NETPBM_HEADER, MAX_SLOW_BYTES = 1 << 16, 16 << 20
_COMMENT = re.compile(rb"#[^\n\r]*[\n\r]?")
_NETPBM_FIELD = re.compile(rb"(?:\s|#[^\n\r]*[\n\r])*([^\s#]+)")
_ASCII, _BITMAPS, _GREY, _COLOUR = (b"P1", b"P2", b"P3"), (b"P1", b"P4"), (b"P2", b"P5"), (b"P3", b"P6")
# The directory of an icon file stores sides of up to 256 pixels; for larger PNG icons it says 256 or 0.
_MAX_ICON_SIDE = 1024
_BMP_HEADER, _SGI_HEADER, _PCX_PALETTE = 54, 512, 769
_RUNS = {"PCX": 8 * 32, "TGA": 128}


def check_netpbm(data: bytes) -> None:
    """Reject a Netpbm file that takes too long to read, or lacks pixels.

    Raises:
        UndecodableImageError: ``truncated``, ``suspicious`` or ``too_large``.
    """
    kind, head = data[:2], data[:_MAX_NETPBM_HEADER]
    if kind not in (*_BITMAPS, *_GREY, *_COLOUR):
        return
    wanted, fields, position = 2 if kind in _BITMAPS else 3, [], 2
    while len(fields) < wanted:
        field = _NETPBM_FIELD.match(head, position)
        if field is None and len(head) < len(data):
            raise UndecodableImageError("suspicious", f"a header of more than {len(head)} bytes")
        if field is None:
            raise UndecodableImageError("truncated", f"its {len(data)} bytes end within its header")
        if not field[1].isdigit():
            return
        fields.append(int(field[1][:20]))
        position = field.end()
    width, height = fields[:2]
    check_size(width, height)
    maximum = fields[2] if wanted == 3 else 1
    there = len(data) - position - 1
    slow = kind in _ASCII or (wanted == 3 and maximum != 255)
    if slow and there > MAX_SLOW_BYTES:
        raise UndecodableImageError(
            "too_large", f"{there} bytes of numbers, which are read one by one, exceed the limit of {MAX_SLOW_BYTES}"
        )
    samples = width * height * (3 if kind in _COLOUR else 1)
    needed = samples * (2 if maximum > 255 else 1)
    if kind == b"P4":
        needed = height * ((width + 7) // 8)
    elif kind in _ASCII:
        # Each number takes at least a digit and, except in bitmaps, a separator.
        needed = samples if kind == b"P1" else 2 * samples - 1
    if there < needed:
        raise UndecodableImageError("truncated", f"{max(there, 0)} bytes of pixels for {width}x{height}, not {needed}")


def without_comments(data: bytes) -> bytes:
    """Remove the comments from a plain Netpbm file: for each comment, Pillow copies the rest of the file.

    Raises:
        UndecodableImageError: ``suspicious``: too many comments.
    """
    if not data.startswith(_ASCII):
        return data
    if (count := data.count(b"#")) > MAX_CHUNKS:
        raise UndecodableImageError("suspicious", f"{count} comments, more than the limit of {MAX_CHUNKS}")
    return _COMMENT.sub(b"", data)


def icon_size(data: bytes) -> tuple[int, int]:
    """Read and check the width and height of the picture that Pillow decodes in an icon file.

    Raises:
        UndecodableImageError: ``suspicious``, ``too_large`` or ``truncated``.
    """
    entry = _largest_icon(data)
    if entry is None:
        return 0, 0
    if entry.offset + 40 > len(data):
        raise UndecodableImageError("truncated", f"its picture would be at byte {entry.offset} of {len(data)}")
    if data.startswith(png.SIGNATURE, entry.offset):
        png.check_png(data, entry.offset)
        width, height = struct.unpack_from(">II", data, entry.offset + 16)
    else:
        width, height = struct.unpack_from("<II", data, entry.offset + 4)
        # The height includes the mask.
        height //= 2
    if max(width, height) > _MAX_ICON_SIDE:
        raise UndecodableImageError(
            "suspicious", f"an icon of {entry.width}x{entry.height} pixels whose picture has {width}x{height}"
        )
    return width, height


def check_icon_rows(data: bytes) -> None:
    """Reject an icon file whose picture is a truncated PNG.

    Raises:
        UndecodableImageError: ``truncated``.
    """
    entry = _largest_icon(data)
    if entry and data.startswith(png.SIGNATURE, entry.offset):
        png.check_rows(data[entry.offset :])


def _largest_icon(data: bytes) -> IcoImagePlugin.IconHeader | None:
    """The entry that Pillow decodes."""
    try:
        return IcoImagePlugin.IcoFile(io.BytesIO(data)).entry[0]
    except (SyntaxError, LookupError, struct.error):
        return None


def check_claimed_size(data: bytes, image: Image.Image) -> None:
    """Reject an opened BMP, PCX, TGA, SGI or AVIF that claims more pixels than its bytes can encode.

    Raises:
        UndecodableImageError: ``suspicious`` or ``truncated``.
    """
    width, height = image.size
    kind = image.format or ""
    if kind == "SGI" and data[2]:
        # A table stores the position of each row.
        check_plausible(width, height, len(data), width / 8)
    elif kind == "PCX":
        _check_palette(data)
        check_plausible(width, height, len(data), _RUNS[kind])
    else:
        check_plausible(width, height, len(data), _RUNS.get(kind))


def bitmap_ends_early(data: bytes) -> bool:
    """Whether the pixels of a BMP would start past the end of the file."""
    return len(data) < _BMP_HEADER or int.from_bytes(data[10:14], "little") > len(data)


def sgi_ends_early(data: bytes) -> bool:
    """Whether rows of an SGI image extend past the end of the file."""
    height, channels = struct.unpack_from(">HH", data.ljust(12, b"\0"), 8)
    rows = height * channels
    if not data[2] or _SGI_HEADER + 8 * rows > len(data):
        return True
    return any(end > len(data) for _, end in _sgi_rows(data, rows))


def _sgi_rows(data: bytes, rows: int) -> Iterator[tuple[int, int]]:
    places = struct.unpack_from(f">{2 * rows}I", data, _SGI_HEADER)
    return ((begin, begin + size) for begin, size in zip(places[:rows], places[rows:], strict=True))


def check_sgi_rows(data: bytes) -> None:
    """Reject an SGI image whose runs do not fill its rows: Pillow leaves the rest black.

    Raises:
        UndecodableImageError: ``truncated``.
    """
    bytes_a_value, (width, height, channels) = data[3], struct.unpack_from(">HHH", data, 6)
    if not data[2] or bytes_a_value != 1:
        return
    for begin, end in _sgi_rows(data, height * channels):
        values, place = 0, begin
        while place < end and (count := data[place] & 0x7F):
            values += count
            place += 1 + (count if data[place] & 0x80 else 1)
        if values < width:
            raise UndecodableImageError("truncated", f"a row of {values} pixels, not {width}")


def check_before_palette(data: bytes) -> None:
    """Reject a truncated PCX, where Pillow has decoded the palette as pixels.

    Raises:
        UndecodableImageError: ``truncated``.
    """
    if not _has_palette(data):
        return
    try:
        with Image.open(io.BytesIO(data[:-_PCX_PALETTE]), formats=["PCX"]) as image:
            image.load()
    except OSError as error:
        raise UndecodableImageError("truncated", "its pixels do not end before its palette") from error


def _has_palette(data: bytes) -> bool:
    """Whether it is a PCX of 256 colours or greys with a palette after the pixels."""
    version, bits, planes = data[1], data[3], data[65]
    return (version, bits, planes) == (5, 8, 1) and len(data) > 128 + _PCX_PALETTE and data[-_PCX_PALETTE] == 12


def _check_palette(data: bytes) -> None:
    """Reject a PCX of 256 colours without the palette at its end: Pillow would read palette indices as greys."""
    version, bits, planes, grey = data[1], data[3], data[65], data[68] == 2
    if (version, bits, planes) == (5, 8, 1) and not grey and not _has_palette(data):
        raise UndecodableImageError("truncated", "the palette at its end is missing")
