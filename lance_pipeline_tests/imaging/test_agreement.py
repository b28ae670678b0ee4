"""The faster decoders give the same pixels as Pillow, or leave the file to Pillow."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from lance_pipeline.imaging import decoding
from lance_pipeline.imaging.decoding import decode_image
from lance_pipeline.imaging.headers import plain_jpeg, plain_png
from lance_pipeline.imaging.rejection import UndecodableImageError
from lance_pipeline.loader.read_ahead import EncodedRows
from lance_pipeline_tests.image_folders import class_image, encoded

PHOTO = class_image(3, np.random.default_rng(0), (45, 31))
_ORIENTATION = 0x0112


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reference(data: bytes) -> np.ndarray:
    """The pixels by Pillow alone, as its manual recommends."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def oriented(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[_ORIENTATION] = value
    return exif


def palette_with_transparency() -> bytes:
    return saved(PHOTO.convert("P", palette=Image.Palette.ADAPTIVE, colors=16), "PNG", transparency=3)


FILES = {
    "grey": saved(PHOTO.convert("L"), "PNG"),
    "one bit": saved(PHOTO.convert("1"), "PNG"),
    "palette": saved(PHOTO.convert("P"), "PNG"),
    "palette of two bits": saved(PHOTO.convert("P", palette=Image.Palette.ADAPTIVE, colors=4), "PNG", bits=2),
    "palette with transparency": palette_with_transparency(),
    "grey with transparency": saved(PHOTO.convert("L"), "PNG", transparency=7),
    "colour with transparency": saved(PHOTO, "PNG", transparency=(1, 2, 3)),
    "alpha": saved(PHOTO.convert("RGBA"), "PNG"),
    "grey with alpha": saved(PHOTO.convert("LA"), "PNG"),
    "PNG with orientation": saved(PHOTO, "PNG", exif=oriented(6)),
    "PNG with gamma and profile": saved(PHOTO, "PNG", gamma=0.5, icc_profile=b"no profile at all"),
    "progressive JPEG": saved(PHOTO, "JPEG", progressive=True),
    "JPEG without subsampling": saved(PHOTO, "JPEG", subsampling=0),
    "JPEG 4:2:2": saved(PHOTO, "JPEG", subsampling=1),
    "JPEG with restarts": saved(PHOTO, "JPEG", restart_marker_blocks=1),
    "JPEG of RGB": saved(PHOTO, "JPEG", keep_rgb=True),
    "grey JPEG": saved(PHOTO.convert("L"), "JPEG"),
    "CMYK JPEG": saved(PHOTO.convert("CMYK"), "JPEG"),
    "JPEG with a profile": saved(PHOTO, "JPEG", icc_profile=b"x" * 70_000),
    "JPEG with a comment": saved(PHOTO, "JPEG", comment=b"hello"),
    **{f"JPEG of orientation {n}": saved(PHOTO, "JPEG", exif=oriented(n)) for n in range(9)},
    "MPO": saved(PHOTO, "MPO", save_all=True, append_images=[PHOTO.rotate(90)]),
    "GIF": saved(PHOTO, "GIF"),
    "animated GIF": saved(PHOTO, "GIF", save_all=True, append_images=[PHOTO.rotate(90)]),
    "WebP": saved(PHOTO, "WEBP"),
    "lossless WebP with alpha": saved(PHOTO.convert("RGBA"), "WEBP", lossless=True),
    "animated WebP": saved(PHOTO, "WEBP", save_all=True, append_images=[PHOTO.rotate(90)]),
    "TIFF": saved(PHOTO, "TIFF"),
    "compressed TIFF": saved(PHOTO, "TIFF", compression="tiff_lzw"),
    "CMYK TIFF": saved(PHOTO.convert("CMYK"), "TIFF"),
    "BMP": saved(PHOTO, "BMP"),
    "BMP palette": saved(PHOTO.convert("P"), "BMP"),
    "PPM": saved(PHOTO, "PPM"),
    "JPEG 2000": saved(PHOTO, "JPEG2000"),
}
if features.check("avif"):
    FILES["AVIF"] = saved(PHOTO, "AVIF")
_PLAIN = {name for name, data in FILES.items() if plain_jpeg(data) or plain_png(data)}


@pytest.mark.parametrize("name", FILES)
def test_pixels_equal_pillows(name):
    pixels = decode_image(FILES[name], "drop").pixels
    expected = reference(FILES[name])
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape
    assert (pixels == expected).all()


def test_pixels_of_a_ycck_jpeg_equal_pillows():
    """As Photoshop writes it: four inverted components, three of which are YCbCr."""
    data = bytearray(FILES["CMYK JPEG"])
    marker = data.index(b"Adobe")
    assert data[marker + 11] in (0, 2)
    data[marker + 11] = 2
    pixels = decode_image(bytes(data)).pixels
    assert (pixels == reference(bytes(data))).all()
    assert pixels.shape == (31, 45, 3)


def test_sixteen_bit_colour_keeps_its_high_bits():
    cv2 = pytest.importorskip("cv2")
    values = np.arange(12, dtype=np.uint16).reshape(2, 2, 3) * 5000
    data = cv2.imencode(".png", values[:, :, ::-1])[1].tobytes()
    pixels = decode_image(data).pixels
    assert (pixels == reference(data)).all()
    assert abs(pixels.astype(int) - values // 257).max() <= 1


def test_only_plain_files_are_decoded_by_the_fast_decoders():
    assert {"grey", "palette", "progressive JPEG", "grey JPEG", "JPEG with a profile"} <= _PLAIN
    assert {"JPEG of orientation 0", "JPEG of orientation 1"} & _PLAIN == {"JPEG of orientation 1"}
    assert not _PLAIN & {
        "alpha", "palette with transparency", "colour with transparency", "one bit", "PNG with orientation",
        "CMYK JPEG", "JPEG of RGB", "MPO", "JPEG of orientation 6",
    }  # fmt: skip


def test_format_is_recognised_by_content():
    kinds = {name: decode_image(data).format for name, data in FILES.items()}
    assert kinds["grey"] == "PNG"
    assert kinds["progressive JPEG"] == "JPEG"
    assert (kinds["GIF"], kinds["WebP"], kinds["TIFF"], kinds["BMP"]) == ("GIF", "WEBP", "TIFF", "BMP")


@st.composite
def photos(draw: st.DrawFn) -> bytes:
    size = draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
    image = class_image(draw(st.integers(0, 5)), np.random.default_rng(draw(st.integers(0, 9999))), size)
    if draw(st.booleans()):
        image = image.convert("L")
    if draw(st.booleans()):
        return saved(image, "PNG", compress_level=draw(st.integers(0, 9)))
    return saved(
        image,
        "JPEG",
        quality=draw(st.integers(1, 100)),
        subsampling=draw(st.sampled_from([0, 1, 2])),
        progressive=draw(st.booleans()),
        optimize=draw(st.booleans()),
    )


@settings(max_examples=150, deadline=None)
@given(photos())
def test_any_plain_photo_decodes_as_in_pillow(data):
    assert plain_jpeg(data) or plain_png(data)
    assert (decode_image(data).pixels == reference(data)).all()


def verdict(decode: Any, data: bytes) -> bytes | str:
    try:
        return decode(data).pixels.tobytes()
    except UndecodableImageError as error:
        return error.reason


@settings(max_examples=200, deadline=None)
@given(photos(), st.floats(0, 1), st.integers(0, 7), st.booleans())
def test_damaged_files_give_the_same_result_as_with_pillow(data, where, bit, cut):
    place = int(where * (len(data) - 1))
    damaged = bytearray(data[: place + 1] if cut else data)
    if not cut:
        damaged[place] ^= 1 << bit
    assert verdict(decode_image, bytes(damaged)) == verdict(decoding._decode_by_pillow, bytes(damaged))


def test_every_flipped_bit_outside_of_a_pngs_pixels_gives_the_same_result_as_with_pillow():
    data = encoded(PHOTO)
    beside_pixels = [*range(45), *range(len(data) - 20, len(data))]
    for place in beside_pixels:
        for bit in range(8):
            damaged = data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
            assert verdict(decode_image, damaged) == verdict(decoding._decode_by_pillow, damaged), (place, bit)


@pytest.mark.parametrize("name", FILES)
def test_memory_views_give_the_same_pixels_as_bytes(name):
    (image,) = EncodedRows(np.array([0]), [pa.chunked_array([pa.array([FILES[name]], pa.large_binary())])]).images
    assert (decode_image(image).pixels == decode_image(FILES[name]).pixels).all()


def test_every_cut_of_a_png_is_rejected_or_complete():
    data = encoded(PHOTO)
    whole = reference(data).tobytes()
    verdicts = [verdict(decode_image, data[:length]) for length in range(len(data))]
    assert verdicts[0] == "empty"
    # Only checksums and the closing chunk may be missing: then all pixels are present.
    assert min((place for place, one in enumerate(verdicts) if one == whole), default=len(data)) > len(data) - 24
    assert {one for one in verdicts if isinstance(one, str)} <= {"empty", "not_an_image", "truncated", "corrupt"}
