"""Detection of missing rows in fax and JPEG strips of a TIFF, for which libtiff only emits a warning.

Source: ITU-T T.4 and T.6; Adobe, "TIFF Technical Note 2: JPEG-in-TIFF".
"""

import io
import struct
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lance_pipeline.imaging.formats.jpeg import check_decodes, frame_of
from lance_pipeline.imaging.formats.tiff import Directory
from lance_pipeline.imaging.rejection import UndecodableImageError

_WIDTH, _HEIGHT, _COMPRESSION, _FILL_ORDER, _ROWS = 256, 257, 259, 266, 278
_STRIP_OFFSETS, _STRIP_COUNTS, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 273, 279, 322, 323, 324, 325
_JPEG_TABLES, _HUFFMAN, _GROUP_3, _GROUP_4, _JPEG = 347, 2, 3, 4, 7
# An end of line is at least this many zeros and a one; no other code has as many. Two in a row end the image.
_EOL_ZEROS, _EOL_TAG = 11, 1
# A row that starts with a black pixel: runs of zero white and one black pixels, with a mode prefix in T.6.
_MARKED_ROW = [int(bit) for bit in "00110101010"]
_RUNS_IN_T6 = [0, 0, 1]


def check_strips(data: bytes, image: Image.Image) -> None:
    """Reject a TIFF in fax or JPEG encoding with missing rows.

    Args:
        data: the content of the file.
        image: the decoded image.

    Raises:
        UndecodableImageError: ``truncated`` or ``corrupt``.
    """
    directory = Directory.at(data)
    compression = directory.number(_COMPRESSION, 0) if directory else 0
    if directory is None or compression not in (_HUFFMAN, _GROUP_3, _GROUP_4, _JPEG):
        return
    width, height = directory.number(_WIDTH, 0), directory.number(_HEIGHT, 0)
    if compression == _JPEG:
        _check_jpegs(directory, width, height)
        return
    offsets, counts = directory.numbers(_STRIP_OFFSETS), directory.numbers(_STRIP_COUNTS)
    if not offsets or len(offsets) != len(counts):
        return
    # Rows can be missing only from the end: check the last strip.
    rows = height - (len(offsets) - 1) * min(directory.number(_ROWS, height), height)
    strip = data[offsets[-1] : offsets[-1] + counts[-1]]
    bits = np.unpackbits(np.frombuffer(strip, np.uint8), bitorder=_bit_order(directory))
    ends = _line_ends(bits)
    if compression == _GROUP_3:
        found = _rows_between(bits, ends)
        missing = len(ends) > 0 and found < rows
    else:
        codes = bits[: ends[0] - _EOL_ZEROS] if compression == _GROUP_4 and len(ends) else bits
        # A one repeats the row above.
        row = (_RUNS_IN_T6 if compression == _GROUP_4 else []) + _MARKED_ROW + [1] * width
        marks = np.array(row, np.uint8)
        missing = _is_other_image(directory, np.concatenate([codes, marks]), image)
    if missing:
        raise UndecodableImageError("truncated", f"its last strip of fax data has fewer rows than {rows}")


def _bit_order(directory: Directory) -> Literal["big", "little"]:
    return "little" if directory.number(_FILL_ORDER, 1) == 2 else "big"


def _line_ends(bits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The positions of the ones that terminate end-of-line codes."""
    ones = np.flatnonzero(bits)
    return ones[np.diff(ones, prepend=-1) > _EOL_ZEROS]


def _rows_between(bits: NDArray[np.uint8], ends: NDArray[np.int64]) -> int:
    """The number of rows before, between and after the end-of-line codes."""
    if not len(ends):
        return 0
    first = bool(bits[: ends[0]].any())
    between = int((np.diff(ends) > _EOL_ZEROS + 1 + _EOL_TAG).sum())
    return first + between + bool(bits[ends[-1] + 1 + _EOL_TAG :].any())


def _is_other_image(directory: Directory, bits: NDArray[np.uint8], image: Image.Image) -> bool:
    """Whether the image changes with these codes as the last strip; codes after the last row have no effect."""
    strip = np.packbits(bits, bitorder=_bit_order(directory)).tobytes()
    other = bytearray(directory.data)
    for tag, value in ((_STRIP_OFFSETS, len(other)), (_STRIP_COUNTS, len(strip))):
        kind, count, at = directory.tags[tag]
        code, size = ("H", 2) if kind == 3 else ("I", 4)
        if value >= 1 << 8 * size:
            return False
        struct.pack_into(directory.order + code, other, at + (count - 1) * size, value)
    other += strip
    try:
        with Image.open(io.BytesIO(other), formats=["TIFF"]) as changed:
            return changed.size == image.size and changed.tobytes() != image.tobytes()
    except OSError:
        return True


def _check_jpegs(directory: Directory, width: int, height: int) -> None:
    """Check the strips or tiles, each of which is a JPEG without its tables."""
    data = directory.data
    _, size, at = directory.tags.get(_JPEG_TABLES, (0, 0, 0))
    # Without the start and end markers.
    tables = data[at + 2 : at + max(size - 2, 2)]
    tiled = _TILE_OFFSETS in directory.tags
    offsets = directory.numbers(_TILE_OFFSETS if tiled else _STRIP_OFFSETS)
    counts = directory.numbers(_TILE_COUNTS if tiled else _STRIP_COUNTS)
    rows = min(directory.number(_ROWS, height), height)
    for number, (offset, count) in enumerate(zip(offsets, counts, strict=False)):
        jpeg = data[offset : offset + 2] + tables + data[offset + 2 : offset + count]
        needed = directory.number(_TILE_WIDTH, 0), directory.number(_TILE_HEIGHT, 0)
        if not tiled:
            # With separate planes, the strips start over for each plane.
            needed = width, min(rows, height - number * rows % (-(-height // rows) * rows))
        frame = frame_of(jpeg)
        if frame is None:
            continue
        if frame.height < needed[1] or frame.width < needed[0]:
            raise UndecodableImageError(
                "truncated", f"a part of {frame.width}x{frame.height} pixels, not {needed[0]}x{needed[1]}"
            )
        check_decodes(jpeg)
