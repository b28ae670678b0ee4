"""A truncated file is never accepted as a complete image, in any format, even with a forged end or header."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lance_pipeline.imaging.decoding import decode_image
from lance_pipeline.imaging.formats.gif import first_frame
from lance_pipeline.imaging.rejection import UndecodableImageError
from lance_pipeline_tests.imaging.formats import encodings
from lance_pipeline_tests.imaging.formats.encodings import (
    FILES,
    HEIGHT,
    JPEGS,
    PALETTE,
    WIDTH,
    gif,
    photo,
    png,
    rows,
    saved,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
# Shorter beginnings of some formats cannot be recognised.
_RECOGNISABLE = 128
_END = b"\xff\xd9"


def verdict(data: bytes) -> bytes | str:
    """The pixels, or the reason for the rejection."""
    try:
        return decode_image(data).pixels.tobytes()
    except UndecodableImageError as error:
        return error.reason


def cuts(data: bytes) -> list[int]:
    """Some positions throughout the file, and all positions near its end."""
    return sorted({*np.linspace(1, len(data) - 1, 40, dtype=int).tolist(), *range(max(len(data) - 30, 1), len(data))})


@pytest.mark.parametrize("name", FILES)
def test_every_encoding_is_complete_or_rejected_wherever_it_is_cut(name):
    data = FILES[name]
    whole = verdict(data)
    assert isinstance(whole, bytes)
    for length in cuts(data):
        found = verdict(data[:length])
        if length < _RECOGNISABLE:
            assert found in ("truncated", "corrupt", "not_an_image")
        elif name in ("plain PBM 2", "plain PBM 3") and length > len(data) - 4:
            # A cut within the last number leaves a valid number.
            continue
        else:
            assert found in ("truncated", whole), length


@pytest.mark.parametrize("name", [*JPEGS, "MPO"])
def test_an_end_marker_does_not_make_a_truncated_jpeg_complete(name):
    data = FILES[name]
    whole = verdict(data)
    for length in cuts(data)[1:]:
        found = verdict(data[:length] + _END)
        assert found == whole if length >= len(data) - 2 else found in ("truncated", "corrupt", whole)
        if length < data.rindex(_END) - 4:
            assert found != whole or name == "MPO"


def test_a_progressive_jpeg_that_ends_between_its_scans_is_truncated():
    for name in ("progressive JPEG", "turned progressive JPEG", "progressive CMYK JPEG"):
        data = FILES[name]
        scan = data.find(b"\xff\xda")
        places = []
        while (scan := data.find(b"\xff\xda", scan + 1)) > 0:
            places.append(scan)
        assert len(places) > 5
        assert {verdict(data[:place] + _END) for place in places} == {"truncated"}


def test_a_jpeg_2000_file_with_missing_tiles_is_truncated():
    data = FILES["JPEG 2000 in tiles"]
    tile = data.find(b"\xff\x90")
    while (tile := data.find(b"\xff\x90\0\x0a", tile + 1)) > 0:
        assert verdict(data[:tile] + _END) == "truncated"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_truncated_photo_gives_different_pixels(data):
    size = data.draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    image = photo(*size, seed=data.draw(st.integers(0, 99))).convert(data.draw(st.sampled_from(["RGB", "L"])))
    kind, options = data.draw(
        st.sampled_from(
            [
                ("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG", {"restart_marker_blocks": 1}),
                ("GIF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {}), ("TGA", {"compression": "tga_rle"}),
                ("PCX", {}), ("SGI", {}), ("PPM", {}), ("WEBP", {}), ("JPEG2000", {}),
            ]
        )
    )  # fmt: skip
    whole = saved(image, kind, **options)
    cut = whole[: data.draw(st.integers(1, len(whole) - 1))]
    if kind == "JPEG" and data.draw(st.booleans()):
        cut += _END
    found = verdict(cut)
    assert found == verdict(whole) or found in ("truncated", "corrupt", "not_an_image")


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("kind", encodings.png_pixels())
def test_a_png_stream_that_ends_early_is_truncated(kind, interlaced):
    depth, colour = kind
    pixels = encodings.png_pixels()[kind]
    stream, more = rows(pixels, interlaced), [PALETTE] if colour == 3 else []
    row = 1 + pixels[0].nbytes
    # No rows, at the end of a row, within a row, one byte too few.
    for length in [0, *(count * row for count in (1, 10, 30, 46)), row * 7 + 5, len(stream) - 1]:
        assert verdict(png(WIDTH, HEIGHT, depth, colour, stream[:length], interlaced, *more)) == "truncated"
    for width, height in ((WIDTH + 1, HEIGHT), (WIDTH, HEIGHT + 1), (400, 400)):
        assert verdict(png(width, height, depth, colour, stream, interlaced, *more)) in ("truncated", "corrupt")
    black = png(WIDTH, HEIGHT, depth, colour, bytes(len(stream)), interlaced, *more)
    assert isinstance(verdict(black), bytes)


@pytest.mark.parametrize("transparent", [None, 0, 5])
@pytest.mark.parametrize("interlaced", [False, True])
def test_a_gif_that_ends_before_its_last_pixel_is_truncated(interlaced, transparent):
    for value in (0, 5, 9):
        pixels = bytes([value]) * 300
        assert isinstance(verdict(gif(20, 15, pixels, interlaced, transparent)), bytes)
        for length in (1, 20, 100, 299):
            assert verdict(gif(20, 15, pixels[:length], interlaced, transparent)) == "truncated"


def patched(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


@pytest.mark.parametrize("name", [*JPEGS, "MPO"])
@pytest.mark.parametrize("size", [(HEIGHT + 17, WIDTH), (HEIGHT, WIDTH + 40), (300, 300), (2000, 2000)])
def test_a_jpeg_with_a_larger_size_in_its_header_is_truncated(name, size):
    data = FILES[name]
    frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    assert verdict(patched(data, frame + 5, struct.pack(">HH", *size))) == "truncated"


def with_tiff_tags(data: bytes, **values: int) -> bytes:
    tags = {"width": 256, "height": 257, "rows": 278}
    (directory,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, directory)
    for place in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from("<HH", data, place)
        for name, value in values.items():
            if tag == tags[name]:
                data = patched(data, place + 8, struct.pack("<I" if kind == 4 else "<H", value))
    return data


@pytest.mark.parametrize("name", [name for name in FILES if "TIFF" in name and name != "TIFF by libtiff"])
@pytest.mark.parametrize("height", [HEIGHT + 1, HEIGHT + 20])
def test_a_tiff_with_more_rows_in_its_header_is_rejected(name, height):
    assert verdict(with_tiff_tags(FILES[name], height=height, rows=height)) in ("truncated", "corrupt")


def test_other_formats_with_a_larger_size_in_their_header_are_rejected():
    wide, high = struct.pack("<H", WIDTH + 30), struct.pack("<H", HEIGHT + 30)
    place = first_frame(FILES["GIF"])
    cases = {
        "GIF": patched(patched(FILES["GIF"], place + 5, wide + high), 6, wide + high),
        "BMP": patched(FILES["BMP RGB"], 22, high),
        **{f"PCX {mode}": patched(FILES[f"PCX {mode}"], 10, high) for mode in ("RGB", "L", "P", "1")},
        "PCX by two rows": patched(FILES["PCX L"], 10, struct.pack("<H", HEIGHT + 1)),
        "TGA": patched(FILES["TGA RGB"], 14, high),
        "TGA in runs": patched(FILES["TGA RGB in runs"], 14, struct.pack("<H", HEIGHT + 1)),
        "SGI": patched(FILES["SGI RGB"], 8, high[::-1]),
        "SGI in runs": patched(FILES["SGI in runs"], 6, wide[::-1]),
        "PPM": FILES["PPM RGB"].replace(b"61 47", b"61 48"),
        "WebP": patched(FILES["WebP"], 28, high),
    }
    assert {name: found for name, data in cases.items() if isinstance(found := verdict(data), bytes)} == {}


def test_a_block_of_zeros_in_a_jpeg_is_detected():
    image = Image.effect_noise((640, 480), 60).convert("RGB")
    rng = np.random.default_rng(0)
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}):
        data = saved(image, "JPEG", quality=90, **options)
        begin = data.index(b"\xff\xda") + 20
        for place in rng.integers(begin, len(data) - 4200, 8).tolist():
            assert verdict(patched(data, place, bytes(4096))) in ("truncated", "corrupt")


def _odd_jpegs() -> dict[str, tuple[bytes, bytes]]:
    """Pairs of a JPEG with an irregularity and the same JPEG without it."""
    odd = {}
    for name, data in JPEGS.items():
        tables = data.index(b"\xff\xdb")
        odd |= {
            f"{name}, {len(more)} bytes before its end": (data[:-2] + more + data[-2:], data)
            for more in (b"\0", b"\0" * 5000, b"garbage", b"\xff" * 3)
        }
        for junk in (b"junk", b"\xff\xff", b"\xff\xfe\0\5abc", b"\xff\xe1\0\x0cExif\0\0MM\0*"):
            odd[f"{name}, header with {junk!r}"] = data[:tables] + junk + data[tables:], data
    jpeg = JPEGS["JPEG"]
    scan = jpeg.rindex(b"\xff\xda")
    odd["JFIF 9"] = patched(jpeg, jpeg.index(b"JFIF\0") + 5, b"\x09"), jpeg
    odd["scan of five coefficients"] = patched(jpeg, scan + 12, b"\x05"), jpeg
    return odd


def test_irregular_but_complete_files_are_accepted():
    for name, (odd, data) in _odd_jpegs().items():
        assert verdict(odd) == verdict(data), name
    for name, data in FILES.items():
        # The palette of a PCX must be at the end of the file, and data after a plain PBM are read as numbers.
        if name not in ("PCX L", "PCX P") and not name.startswith("plain PBM"):
            for more in (b"\0", b"\n", b"garbage", b"\0" * 1000, FILES["JPEG"]):
                assert verdict(data + more) == verdict(data), name


def test_an_irregularity_does_not_hide_a_truncation():
    for name, (odd, data) in _odd_jpegs().items():
        if len(odd) < len(data) + 99:
            assert verdict(odd[: len(odd) * 3 // 4] + _END) in ("truncated", "corrupt"), name
