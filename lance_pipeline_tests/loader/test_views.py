"""Crops and shrunk images look like torchvision's, and no more of a JPEG is decoded than necessary."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from lance_pipeline.imaging.decoding import decode_scaled, decode_top
from lance_pipeline.imaging.headers import PlainHeader, plain_jpeg
from lance_pipeline.imaging.rejection import UndecodableImageError
from lance_pipeline.loader.augmentation import Augment, crop_box, key_of
from lance_pipeline.loader.views import Shrunk, random_crop

AREA = (0.08, 1.0)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """An image like a photograph: blotches of several sizes and a little grain."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.integers(0, 256, (size, size, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
        for size in (3, 8, 16)
    ]
    mixed = np.average(layers, axis=0, weights=(5, 3, 2)) + rng.normal(0, 2, (height, width, 1))
    return Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))


def as_jpeg(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, **options)
    return buffer.getvalue()


def draw(seed: int) -> np.ndarray:
    return Augment(resized_crop=AREA).draw(key_of(seed), np.array([0])).crop[0]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([(500, 375), (1600, 1200), (300, 300), (90, 200)]), st.integers(0, 10**6))
def test_random_crop_looks_like_torchvision(size, seed):
    image = photo(*size, seed=seed % 7)
    data = as_jpeg(image)
    box = crop_box(draw(seed), size[1], size[0], AREA)
    decoded = Image.open(io.BytesIO(data)).convert("RGB")
    part = decoded.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    expected = np.asarray(v2.Resize((112, 112))(part))
    for source in (data, np.asarray(decoded)):
        found = random_crop(source, draw(seed), AREA, 112)
        assert (found.shape, found.dtype) == ((112, 112, 3), np.uint8)
        # A crop at another position differs by tens of levels.
        assert np.abs(found.astype(int) - expected).mean() < 5


def test_image_with_exif_rotation_is_cropped_upright():
    image = photo(300, 200)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = random_crop(as_jpeg(image.rotate(90, expand=True), exif=exif), draw(3), AREA, 64)
    plain = random_crop(as_jpeg(image), draw(3), AREA, 64)
    assert np.abs(turned.astype(int) - plain).mean() < 6


@pytest.mark.parametrize(("least", "scale"), [(301, 1), (300, 2), (151, 2), (150, 4), (75, 8), (10, 8)])
def test_jpeg_is_decoded_at_the_smallest_sufficient_scale(least, scale):
    pixels = decode_scaled(as_jpeg(photo(1200, 600)), PlainHeader(1200, 600), least, least)
    assert pixels.shape == (600 // scale, 1200 // scale, 3)


def header_of(data: bytes) -> PlainHeader:
    header = plain_jpeg(data)
    assert header is not None
    return header


@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    bottom=st.integers(1, 300),
    least=st.integers(1, 300),
    options=st.fixed_dictionaries(
        {"subsampling": st.sampled_from(["4:4:4", "4:2:2", "4:2:0"])},
        optional={"progressive": st.just(True), "restart_marker_rows": st.integers(1, 3)},
    ),
    mode=st.sampled_from(["RGB", "L"]),
)
def test_top_of_a_jpeg_equals_that_of_the_whole(size, bottom, least, options, mode):
    data = as_jpeg(photo(*size).convert(mode), **options)
    header, bottom = header_of(data), min(bottom, size[1])
    whole = decode_scaled(data, header, least, least)
    top = decode_top(data, header, least, least, bottom)
    assert (top.height, top.width) == whole.shape[:2]
    rows = -(-bottom * top.height // size[1])
    assert np.array_equal(top.pixels[:rows], whole[:rows])


def test_only_necessary_rows_are_decoded():
    data = as_jpeg(photo(600, 400))
    assert decode_top(data, header_of(data), 400, 600, 100).pixels.shape == (104, 600, 3)
    data = as_jpeg(photo(600, 400), progressive=True)
    assert decode_top(data, header_of(data), 400, 600, 100).pixels.shape == (400, 600, 3)


def test_truncated_jpeg_is_an_error_and_trailing_garbage_is_accepted():
    data = as_jpeg(photo(600, 400))
    cut = data[: data.index(b"\xff\xda") + 2000]
    ended = cut + b"\xff\xd9"
    for broken in (cut, ended):
        with pytest.raises(UndecodableImageError) as caught:
            decode_top(broken, header_of(broken), 400, 600, 200)
        assert caught.value.reason == "truncated"
    padded = data[:-2] + b"\0" * 9 + data[-2:]
    for bottom in (200, 400):
        rows = decode_top(padded, header_of(padded), 400, 600, bottom).pixels[:bottom]
        expected = np.asarray(Image.open(io.BytesIO(padded)).convert("RGB"))[:bottom]
        assert np.array_equal(rows, expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 300))
def test_shape_of_a_shrunk_image_follows_from_its_size(width, height, size):
    view = Shrunk(size)
    image = Image.new("RGB", (width, height), (200, 30, 90))
    for data in (as_jpeg(image), as_jpeg(image, progressive=True)):
        assert view.of(data).shape == (*view.shape(height, width), 3)
    assert min(view.shape(height, width)) <= max(size, 1)
    assert max(view.shape(height, width)) <= max(width, height)


def as_sized(height: int, width: int) -> bytes:
    """A JPEG of 16 by 16 pixels whose frame header has another size."""
    small = as_jpeg(Image.new("RGB", (16, 16)))
    frame = small.index(b"\xff\xc0")
    return small[: frame + 5] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + small[frame + 9 :]


def test_decompression_bomb_is_rejected_by_its_header():
    bomb = as_sized(65500, 65500)
    for read in (lambda data: random_crop(data, draw(0), AREA, 32), Shrunk(64).of):
        with pytest.raises(UndecodableImageError) as caught:
            read(bomb)
        assert caught.value.reason == "too_large"


def test_broken_image_is_an_error():
    # Without height, without width, without either.
    empty = [as_sized(height, width) for height, width in ((0, 16), (16, 0), (0, 0))]
    for data in (b"", b"no image", as_jpeg(photo(300, 200))[:500], *empty):
        with pytest.raises(UndecodableImageError):
            random_crop(data, draw(0), AREA, 32)
        with pytest.raises(UndecodableImageError):
            Shrunk(64).of(data)
