"""GIF: the position of the first frame, and whether it is complete.

Source: CompuServe, "Graphics Interchange Format, Version 89a".
"""

import io
import struct

from PIL import Image

from lance_pipeline.imaging.limits import MAX_CHUNKS, check_plausible, check_size
from lance_pipeline.imaging.rejection import UndecodableImageError

_EXTENSION, _FRAME, _COLOUR_TABLE = 0x21, 0x2C, 0x80
_SCREEN = struct.Struct("<6xHHB2x")
_DESCRIPTOR = struct.Struct("<xHHHHB")
_INTERLACED = 0x40
# An LZW code has at most 12 bits, and stands for up to 3837 pixels.
PIXELS_A_BYTE = 2558


def check_gif(data: bytes) -> None:
    """Reject a GIF with too few bytes for its frame, or too many blocks before it.

    Raises:
        UndecodableImageError: ``truncated``, ``suspicious`` or ``too_large``.
    """
    place = first_frame(data)
    width, height, _ = _SCREEN.unpack_from(data)
    left, top, frame_width, frame_height, _ = _DESCRIPTOR.unpack_from(data, place)
    width, height = max(width, left + frame_width), max(height, top + frame_height)
    check_size(width, height)
    check_plausible(width, height, len(data), PIXELS_A_BYTE)


def first_frame(data: bytes) -> int:
    """The position of the first frame's descriptor.

    Raises:
        UndecodableImageError: ``truncated``, ``corrupt`` or ``suspicious``.
    """
    position = _SCREEN.size
    if len(data) >= position and data[10] & _COLOUR_TABLE:
        position += 3 << ((data[10] & 7) + 1)
    for _ in range(MAX_CHUNKS):
        if position + _DESCRIPTOR.size >= len(data):
            raise UndecodableImageError("truncated", f"its {len(data)} bytes end before the first frame")
        kind = data[position]
        if kind == _FRAME:
            return position
        position += 1
        if kind == _EXTENSION:
            position = _skip_blocks(data, position + 1)
        elif kind == ord(";"):
            raise UndecodableImageError("corrupt", "it has no frame")
    raise UndecodableImageError("suspicious", f"more than {MAX_CHUNKS} blocks before the first frame")


def _skip_blocks(data: bytes, position: int) -> int:
    for _ in range(MAX_CHUNKS):
        size = data[position] if position < len(data) else 0
        position += size + 1
        if not size:
            return position
    raise UndecodableImageError("suspicious", f"more than {MAX_CHUNKS} blocks in one extension")


def check_frame(data: bytes, image: Image.Image) -> None:
    """Reject a GIF whose first frame is truncated: Pillow leaves missing pixels in the background colour.

    Args:
        data: the content of the file.
        image: the decoded image, in the mode of the file.

    Raises:
        UndecodableImageError: ``truncated``.
    """
    place = first_frame(data)
    left, top, width, height, flags = _DESCRIPTOR.unpack_from(data, place)
    # In an interlaced frame, the last odd row is decoded last.
    row = height - 1 if not flags & _INTERLACED or height == 1 else (height - 2) | 1
    corner = left + width - 1, top + row
    before = image.getpixel(corner)
    if not isinstance(before, int) or before != image.info.get("transparency", 0):
        return
    # If the last pixel was not decoded, it changes with the background, which is the transparent colour.
    control = b"!\xf9\x04\1\0\0" + bytes([before ^ 1]) + b"\0"
    with Image.open(io.BytesIO(data[:place] + control + data[place:]), formats=["GIF"]) as other:
        if other.getpixel(corner) != before:
            raise UndecodableImageError("truncated", f"its frame of {width}x{height} pixels ends before its last pixel")
