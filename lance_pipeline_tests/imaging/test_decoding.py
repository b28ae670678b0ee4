import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision.transforms import v2

from lance_pipeline.imaging.decoding import UndecodableImageError, decode_rgb, resize_rgb
from lance_pipeline.imaging.limits import MAX_PIXELS
from lance_pipeline_tests.image_folders import class_image, encoded

COLOUR = class_image(3, np.random.default_rng(0), (20, 14))


def png_header(width: int, height: int) -> bytes:
    """A PNG with this size in its header and no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("L", "PNG"),
        ("P", "PNG"),
        ("RGBA", "PNG"),
        ("LA", "PNG"),
        ("1", "PNG"),
        ("P", "GIF"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("RGB", "JPEG"),
        ("RGB", "BMP"),
        ("RGB", "TIFF"),
        ("RGB", "WEBP"),
    ],
)
def test_every_mode_is_converted_to_rgb_as_in_pillow(mode, kind):
    data = encoded(COLOUR.convert(mode), kind)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == mode
        expected = image.convert("RGB")
    decoded = decode_rgb(data)
    assert (decoded.mode, decoded.size) == ("RGB", COLOUR.size)
    assert decoded.tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(kind):
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    decoded = np.asarray(decode_rgb(encoded(Image.fromarray(values), kind)))
    assert decoded.tolist() == [[[0] * 3, [1] * 3, [128] * 3, [255] * 3]]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_range_are_rejected(mode):
    with pytest.raises(UndecodableImageError) as caught:
        decode_rgb(encoded(Image.new(mode, (3, 2)), "TIFF"))
    assert caught.value.reason == "unsupported"


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    COLOUR.save(buffer, "PNG", exif=exif)
    assert decode_rgb(buffer.getvalue()).tobytes() == COLOUR.transpose(Image.Transpose.ROTATE_270).tobytes()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_unreadable_exif_data_do_not_rotate_the_image(kind):
    buffer = io.BytesIO()
    COLOUR.save(buffer, kind, exif=b"MM\0*")
    with pytest.raises(struct.error), Image.open(buffer) as image:
        ImageOps.exif_transpose(image)
    with Image.open(buffer) as image:
        assert decode_rgb(buffer.getvalue()).tobytes() == image.convert("RGB").tobytes()


def test_the_first_frame_of_an_animation_is_decoded():
    rng = np.random.default_rng(0)
    first, second = (class_image(index, rng, 9).convert("P") for index in (0, 2))
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=[second])
    assert decode_rgb(buffer.getvalue()).tobytes() == first.convert("RGB").tobytes()


def test_empty_file():
    with pytest.raises(UndecodableImageError) as caught:
        decode_rgb(b"")
    assert caught.value.reason == "empty"


def test_not_an_image():
    with pytest.raises(UndecodableImageError) as caught:
        decode_rgb(b"<html>404 Not Found</html>")
    assert caught.value.reason == "not_an_image"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_truncated(kind):
    data = encoded(class_image(0, np.random.default_rng(0), 64), kind)
    with pytest.raises(UndecodableImageError):
        decode_rgb(data[: len(data) // 2])


@pytest.mark.parametrize("size", [(60_000, 60_000), (178_956_971, 1)])
def test_too_many_pixels_are_rejected_by_the_header(size):
    with pytest.raises(UndecodableImageError, match=str(MAX_PIXELS)) as caught:
        decode_rgb(png_header(*size))
    assert caught.value.reason == "too_large"


def test_the_limit_does_not_depend_on_pillows_own(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(UndecodableImageError, match=f"60000x60000.*{MAX_PIXELS}"):
        decode_rgb(png_header(60_000, 60_000))


def test_a_small_image_with_missing_pixels_is_truncated():
    with pytest.raises(UndecodableImageError) as caught:
        decode_rgb(png_header(60, 60))
    assert caught.value.reason == "truncated"


_FILES = {kind: encoded(COLOUR, kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM")}


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(_FILES)), st.lists(st.tuples(st.integers(0, 199), st.integers(0, 255)), max_size=4))
def test_damaged_bytes_give_an_image_or_an_undecodable_image_error(kind, changes):
    data = bytearray(_FILES[kind])
    for position, value in changes:
        data[position % len(data)] = value
    try:
        image = decode_rgb(bytes(data))
    except UndecodableImageError:
        return
    assert image.mode == "RGB"


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (7, 31), (16, 16), (1, 50)])
def test_squash_keeps_the_whole_image_and_crop_its_centre(size):
    image = class_image(1, np.random.default_rng(0), size)
    squashed, cropped = resize_rgb(image, 16, "squash"), resize_rgb(image, 16, "crop")
    assert squashed.size == cropped.size == (16, 16)
    assert squashed.tobytes() == image.resize((16, 16), Image.Resampling.BILINEAR).tobytes()
    expected = v2.Compose([v2.Resize(16), v2.CenterCrop(16)])(image)
    assert abs(np.asarray(cropped).astype(int) - np.asarray(expected)).max() <= 1


def test_crop_cuts_off_the_ends_of_the_longer_side():
    pixels = np.full((10, 30, 3), 255, np.uint8)
    pixels[:, 10:20] = 0
    assert not np.asarray(resize_rgb(Image.fromarray(pixels), 10, "crop")).any()
    assert np.asarray(resize_rgb(Image.fromarray(pixels), 10, "squash")).any()
