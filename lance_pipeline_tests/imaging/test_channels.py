import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_pipeline.imaging.channels import ChannelSums
from lance_pipeline.ingest.inspection import measure_image, measure_stack


def sums_of(images) -> ChannelSums:
    sums = ChannelSums()
    for pixels in images:
        one = measure_image(pixels)
        assert one[2:] == measure_stack(np.stack([255 - pixels, pixels]))[1][2:]
        size = pixels.shape[0] * pixels.shape[1]
        sums = sums.plus(ChannelSums(pixels=size, total=one.sums, squares=one.square_sums))
    return sums


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6))
def test_sums_equal_numpys_and_do_not_depend_on_the_grouping(seed, shapes):
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    sums = sums_of(images)
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]).astype(np.int64)

    assert sums.pixels == len(pixels)
    assert sums.total == tuple(pixels.sum(axis=0).tolist())
    assert sums.squares == tuple((pixels**2).sum(axis=0).tolist())
    assert sums.mean() == pytest.approx((pixels / 255).mean(axis=0).tolist())
    assert sums.std() == pytest.approx((pixels / 255).std(axis=0).tolist(), abs=1e-9)

    head, tail = sums_of(images[:1]), sums_of(images[1:])
    assert head.plus(tail) == sums
    assert sums.plus(tail, -1) == head
    assert sums_of(reversed(images)) == sums


def test_a_constant_channel_has_zero_deviation():
    assert sums_of([np.full((7, 3, 3), 77, np.uint8)] * 5).std() == (0.0, 0.0, 0.0)


def test_sums_survive_json():
    sums = sums_of([np.arange(27, dtype=np.uint8).reshape(3, 3, 3)])
    assert ChannelSums.model_validate_json(sums.model_dump_json()) == sums
