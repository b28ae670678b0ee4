import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop, v2

from lance_pipeline.loader.augmentation import Augment, Draws, Flip, Operation, Shift, crop_box, key_of, normalized


def batch(n: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, 3, height, width), dtype=np.uint8))


def shifts(image: torch.Tensor, padding: int) -> dict[tuple[int, int], np.ndarray]:
    """Every crop of the image with mirrored edges, by its corner, computed with numpy."""
    _, height, width = image.shape
    padded = np.pad(image.numpy(), ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
    corners = range(2 * padding + 1)
    return {(y, x): padded[:, y : y + height, x : x + width] for y in corners for x in corners}


def draws(n: int, seed: int = 0, **augment) -> Draws:
    return Augment(**augment).draw(key_of(seed), np.arange(n))


def channels_last(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).contiguous().numpy()


def apply_both_ways(operation: Operation, images: torch.Tensor, drawn: np.ndarray) -> torch.Tensor:
    """Apply the operation to tensors and to arrays, check that the pixels are equal, and return them."""
    result = operation.on_tensors(images, torch.from_numpy(drawn))
    assert (result.shape, result.dtype) == (images.shape, torch.uint8)
    pixels = channels_last(images)
    operation.on_pixels(pixels, drawn)
    assert np.array_equal(pixels, channels_last(result))
    return result


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(4, 9), st.integers(4, 9), st.integers(0, 3), st.integers(0, 1000))
def test_shift_crops_each_image_at_its_corner(n, height, width, padding, seed):
    images, corners = batch(n, height, width, seed), Shift(padding).draw(key_of(seed), np.arange(n))
    shifted = apply_both_ways(Shift(padding), images, corners)
    for image, result, (top, left) in zip(images, shifted, corners.tolist(), strict=True):
        assert np.array_equal(result.numpy(), shifts(image, padding)[top, left])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(2, 9), st.integers(0, 1000))
def test_flip_mirrors_the_chosen_images(n, height, width, seed):
    images, chosen = batch(n, height, width, seed), Flip().draw(key_of(seed), np.arange(n))
    for image, other, mirrored in zip(images, apply_both_ways(Flip(), images, chosen), chosen, strict=True):
        assert np.array_equal(other.numpy(), image.numpy()[:, :, ::-1] if mirrored else image.numpy())


def test_draws_are_uniform_and_uncorrelated():
    many = draws(4000, padding=1, resized_crop=(0.1, 1.0))
    corners, chosen = many.batch
    assert 1800 < chosen.sum() < 2200
    places, counts = np.unique(corners, axis=0, return_counts=True)
    assert len(places) == 9
    assert min(counts) > 350
    assert abs(many.crop.mean(axis=0) - 0.5).max() < 0.03
    # No draw is correlated with another.
    assert abs(np.corrcoef(many.crop.T) - np.eye(many.crop.shape[1])).max() < 0.08


def test_draws_depend_only_on_seeds_and_row():
    whole = draws(50, seed=3, padding=2, resized_crop=(0.1, 1.0))
    part = Augment(padding=2, resized_crop=(0.1, 1.0)).draw(key_of(3), np.array([7, 41]))
    chosen = whole.of(np.isin(np.arange(50), [7, 41]))
    for one, other in zip((chosen.crop, *chosen.batch), (part.crop, *part.batch), strict=True):
        assert np.array_equal(one, other)
    assert not np.array_equal(draws(50, seed=4, padding=2).batch[0], whole.batch[0])
    assert draws(50, flip=False).batch == ()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 10**6), st.sampled_from([(0.08, 1.0), (0.5, 0.6)]))
def test_crop_boxes_are_within_the_image(height, width, seed, area):
    for draw in draws(20, seed, resized_crop=area).crop:
        box = crop_box(draw, height, width, area)
        assert box.top >= 0
        assert box.left >= 0
        assert 0 < box.height <= height - box.top
        assert 0 < box.width <= width - box.left


def test_crop_boxes_have_the_distribution_of_torchvision():
    area, ratio = (0.08, 1.0), (3 / 4, 4 / 3)
    image = torch.empty(3, 375, 500)
    torch.manual_seed(0)
    torch_boxes = [RandomResizedCrop.get_params(image, list(area), list(ratio)) for _ in range(4000)]
    ours = [crop_box(draw, 375, 500, area) for draw in draws(4000, resized_crop=area).crop]
    for theirs, mine in zip(np.array(torch_boxes).T, np.array(ours).T, strict=True):
        quantiles = (0.1, 0.25, 0.5, 0.75, 0.9)
        assert np.allclose(np.quantile(theirs, quantiles), np.quantile(mine, quantiles), atol=14)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ((0.0, 0.5, 1.0), (1.0, 0.05, 0.3)),
    ],
)
def test_normalized_equals_torchvision(mean, std):
    images = torch.cat([batch(4, 5, 7), torch.zeros(1, 3, 5, 7).byte(), torch.full((1, 3, 5, 7), 255).byte()])
    expected = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))])(images)
    result = normalized(images, mean, std)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
