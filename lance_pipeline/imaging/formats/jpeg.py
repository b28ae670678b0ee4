"""JPEG: whether all scans are present and complete, and what they cost to decode.

Source: ITU-T T.81, annexes B and G.
"""

import random
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg

from lance_pipeline.imaging.formats.tiff import check_exif
from lance_pipeline.imaging.limits import check_plausible, check_size
from lance_pipeline.imaging.rejection import UndecodableImageError

MAX_SEGMENTS = 1 << 14
"""Segments before the first scan; ICC profiles and EXIF data take at most 255, extended XMP a few hundred."""
# Encoders write up to about 12 scans. Each scan visits all blocks again: 2**31 pixels take about a second.
_USUAL_SCANS, _MAX_SCANNED_PIXELS = 32, 1 << 31
# Bytes between segments, which decoders skip one by one.
_MAX_JUNK = 1 << 16
# Bytes after the last pixel. Padding repeats one byte, and a few other bytes are harmless; more than that are pixels
# that earlier damage has shifted out of the image.
_MAX_LEFT_OVER = 1 << 8
_EOI, _SOS, _APP0, _APP1, _APP2, _APP15, _COMMENT = 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEF, 0xFE
_ALONE = {0x01, *range(0xD0, 0xD9)}
_SEQUENTIAL = (0xC0, 0xC1, 0xC3, 0xC9, 0xCB)
# A sequential scan contains all coefficients completely, whatever its header claims.
_WHOLE_BLOCKS, _ALL_COEFFICIENTS = (0, 63, 0), (1 << 64) - 1
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# By kind of frame. A block of 8x8 pixels takes one bit for its mean and, in sequential frames, one for the rest.
# Arithmetic coding has no such bound.
_PIXELS_A_BYTE = {0xC0: 256, 0xC1: 256, 0xC2: 512, 0xC3: 8}
# The next marker in entropy-coded data, other than stuffed bytes, fill bytes and restart markers.
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")
_NOISE = bytes(random.Random(0).randrange(255) for _ in range(256))  # noqa: S311
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0x(..)")


class Segment(NamedTuple):
    """A marker segment: the second byte of its marker, and the start and end of its content."""

    marker: int
    begin: int
    end: int


class Frame(NamedTuple):
    """The frame header; ``components`` are the identifiers of the components."""

    kind: int
    width: int
    height: int
    components: bytes


def check_jpeg(data: bytes) -> None:
    """Reject a JPEG that costs too much to decode for its size, or that lacks scans.

    Raises:
        UndecodableImageError: ``truncated``, ``corrupt``, ``suspicious`` or ``too_large``.
    """
    frame, frame_at, end = None, 0, 2
    exif, panorama = bytearray(), bytearray()
    for segment in segments(data):
        end = segment.end
        if end > len(data):
            break
        content = data[segment.begin : segment.end]
        if segment.marker == _APP1 and content.startswith(b"Exif\0\0"):
            exif += content[6:]
        elif segment.marker == _APP2 and content.startswith(b"MPF\0"):
            panorama += content[4:]
        elif segment.marker in _FRAMES:
            frame, frame_at = _frame(segment.marker, content), segment.begin
        elif segment.marker == _SOS and frame:
            check_exif(bytes(exif))
            check_exif(bytes(panorama))
            check_size(frame.width, frame.height)
            check_plausible(frame.width, frame.height, len(data), _PIXELS_A_BYTE.get(frame.kind))
            if content[:1] != bytes([len(frame.components)]) or frame.kind not in _SEQUENTIAL:
                check_scans(data, frame_at)
            return
    if end + 4 > len(data) or data[end : end + 2] == b"\xff\xd9":
        raise UndecodableImageError("truncated", f"its {len(data)} bytes end before the first scan")
    raise UndecodableImageError("corrupt", "no scan begins in it")


def check_scans(data: bytes, frame_at: int) -> None:
    """Reject a JPEG of several scans that omit bits of the image, or that are too many for its size.

    Args:
        data: the content of the file.
        frame_at: the position of the frame header's content.

    Raises:
        UndecodableImageError: ``truncated`` or ``suspicious``.
    """
    kind, end = data[frame_at - 3], frame_at - 2 + int.from_bytes(data[frame_at - 2 : frame_at], "big")
    frame = _frame(kind, data[frame_at:end])
    # For each component a bit mask of the coefficients whose lowest bit has not been sent.
    missing = dict.fromkeys(frame.components, _ALL_COEFFICIENTS)
    scans = 0
    for begin, scan_data in _scan_headers(data, end):
        scans += 1
        first, last, bits = _WHOLE_BLOCKS if kind in _SEQUENTIAL else data[scan_data - 3 : scan_data]
        sent = (2 << last) - (1 << first)
        for component in data[begin + 1 : scan_data - 3 : 2]:
            before = missing.get(component, 0)
            missing[component] = before | sent if bits & 15 else before & ~sent
    if scans > _USUAL_SCANS and scans * frame.width * frame.height > _MAX_SCANNED_PIXELS:
        raise UndecodableImageError("suspicious", f"{scans} scans over {frame.width}x{frame.height} pixels")
    if any(missing.values()):
        count = sum(bits.bit_count() for bits in missing.values())
        raise UndecodableImageError(
            "truncated", f"it ends after {scans} scans, with {count} coefficients of its blocks incomplete"
        )


def _scan_headers(data: bytes, position: int) -> Iterator[tuple[int, int]]:
    """Start and end of the content of each scan header, from the segment at ``position`` on."""
    while 0 <= position < len(data) - 4:
        marker = data[position + 1]
        if data[position] != 0xFF:
            position = data.find(b"\xff", position)
        elif marker == 0xFF:
            position += 1
        elif marker in _ALONE:
            position += 2
        elif marker == _EOI:
            return
        else:
            begin, position = position + 4, position + 2 + (data[position + 2] << 8 | data[position + 3])
            if marker == _SOS and position <= len(data):
                yield begin, position
                following = _MARKER.search(data, position)
                position = following.start() if following else -1


def segments(data: bytes) -> Iterator[Segment]:
    """The segments up to and including the header of the first scan, or up to the end of the image.

    Raises:
        UndecodableImageError: ``suspicious``: too many segments, or too many bytes between them.
    """
    position, junk = 2, 0
    for _ in range(MAX_SEGMENTS):
        begin = data.find(b"\xff", position)
        if begin < 0:
            return
        while data[begin + 1 : begin + 2] == b"\xff" and begin - position <= _MAX_JUNK:
            begin += 1
        junk += begin - position
        if begin + 4 > len(data):
            return
        if junk > _MAX_JUNK:
            raise UndecodableImageError("suspicious", f"{junk} bytes outside of segments before the first scan")
        marker = data[begin + 1]
        if marker == _EOI:
            return
        position = begin + 2
        if marker in _ALONE or marker == 0:
            continue
        end = position + int.from_bytes(data[position : position + 2], "big")
        yield Segment(marker, position + 2, end)
        position = end
        if marker == _SOS:
            return
    raise UndecodableImageError("suspicious", f"more than {MAX_SEGMENTS} segments before the first scan")


def frame_of(data: bytes) -> Frame | None:
    """The frame header, if there is one before the first scan."""
    found = (segment for segment in segments(data) if segment.marker in _FRAMES)
    return next((_frame(one.marker, data[one.begin : one.end]) for one in found), None)


def _frame(kind: int, content: bytes) -> Frame:
    height, width = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
    return Frame(kind, width, height, content[6::3])


def check_decodes(data: bytes) -> None:
    """Reject a JPEG if libjpeg warns about missing or damaged data; its other warnings are harmless.

    Raises:
        UndecodableImageError: ``truncated`` or ``corrupt``.
    """
    bare, components = _without_metadata(data)
    warning = _first_warning(bare, "CMYK" if components == 4 else "GRAY")
    if "remature end" in warning or "marker 0xd9 instead of RST" in warning:
        raise UndecodableImageError("truncated", f"its data are truncated: {warning}")
    if "bad Huffman code" in warning or "instead of RST" in warning:
        raise UndecodableImageError("corrupt", warning)
    if left_over := _LEFT_OVER.search(warning):
        count, marker = int(left_over[1]), int(left_over[2], 16)
        end = bare.rfind(b"\xff\xd9")
        padding = len(set(bare[max(end - count, 0) : end])) <= 1
        if marker != _EOI or (count > _MAX_LEFT_OVER and not padding):
            raise UndecodableImageError("corrupt", warning)
    elif warning and _last_scan_is_short(bare):
        raise UndecodableImageError("truncated", f"its last scan is too short, and before that: {warning}")


def _without_metadata(data: bytes) -> tuple[bytes, int]:
    """The file without metadata, whose warnings would come first, and the number of components."""
    parts, frame = [data[:2]], None
    for segment in segments(data):
        if _APP0 <= segment.marker <= _APP15 or segment.marker == _COMMENT:
            continue
        content = data[segment.begin : segment.end]
        if segment.marker in _FRAMES:
            frame = _frame(segment.marker, content)
        elif segment.marker == _SOS:
            if frame and frame.kind in _SEQUENTIAL:
                content = content[:-3] + bytes(_WHOLE_BLOCKS)
            parts += [data[segment.begin - 4 : segment.begin], content, data[segment.end :]]
            return b"".join(parts), len(frame.components) if frame else 0
        parts += [data[segment.begin - 4 : segment.begin], content]
    return data, len(frame.components) if frame else 0


def _first_warning(data: bytes, colours: str) -> str:
    """The first warning of libjpeg, or an empty string; decodes at an eighth of the size, which is faster."""
    try:
        simplejpeg.decode_jpeg(data, colours, min_height=1, min_width=1)
    except ValueError as error:
        return str(error)
    return ""


def _last_scan_is_short(data: bytes) -> bool:
    """Whether data inserted before the end marker become pixels; needed because libjpeg reports only one warning."""
    end = data.rfind(b"\xff\xd9")
    longer = data[:end] + _NOISE + data[end:]
    try:
        found, expected = (simplejpeg.decode_jpeg(one, "RGB", strict=False) for one in (longer, data))
    except ValueError:
        # If even the lenient decoder fails, leave the decision to Pillow.
        return False
    return not np.array_equal(found, expected)
