import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from lance_pipeline.images.augmentation import normalized, random_flip, random_pad_crop


def batch(n: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, 3, height, width), dtype=np.uint8))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shifts(image: torch.Tensor, padding: int) -> dict[tuple[int, int], np.ndarray]:
    """Every crop of the image with its edges mirrored, by its corner, as numpy makes it."""
    _, height, width = image.shape
    padded = np.pad(image.numpy(), ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
    corners = range(2 * padding + 1)
    return {(y, x): padded[:, y : y + height, x : x + width] for y in corners for x in corners}


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(4, 9), st.integers(4, 9), st.integers(0, 3), st.integers(0, 1000))
def test_pad_crop_gives_each_image_a_shift_of_itself(n, height, width, padding, seed):
    images = batch(n, height, width, seed)
    shifted = random_pad_crop(images, padding, generator(seed))
    assert (shifted.shape, shifted.dtype) == (images.shape, torch.uint8)
    for image, result in zip(images, shifted, strict=True):
        assert any(np.array_equal(result.numpy(), crop) for crop in shifts(image, padding).values())


def test_pad_crop_draws_every_shift_for_each_image_alone():
    image = batch(1, 6, 6)
    results = random_pad_crop(image.expand(300, -1, -1, -1), 1, generator())
    crops = shifts(image[0], 1)
    found = [next(at for at, crop in crops.items() if np.array_equal(one.numpy(), crop)) for one in results]
    counts = [found.count(corner) for corner in crops]
    assert min(counts) > 10
    assert max(counts) < 70


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(2, 9), st.integers(0, 1000))
def test_flip_gives_each_image_or_its_mirror(n, height, width, seed):
    images = batch(n, height, width, seed)
    flipped = random_flip(images, generator(seed))
    assert (flipped.shape, flipped.dtype) == (images.shape, torch.uint8)
    for image, result in zip(images, flipped, strict=True):
        mirror = image.numpy()[:, :, ::-1]
        assert np.array_equal(result.numpy(), image.numpy()) or np.array_equal(result.numpy(), mirror)


def test_flip_mirrors_about_half():
    images = batch(1, 4, 4).expand(400, -1, -1, -1)
    mirrored = (random_flip(images, generator()) != images).flatten(1).any(dim=1)
    assert 150 < int(mirrored.sum()) < 250


def test_a_generator_of_the_same_seed_gives_the_same_batch():
    images = batch(16, 8, 8)

    def augmented(seed):
        source = generator(seed)
        return random_pad_crop(random_flip(images, source), 2, source)

    assert torch.equal(augmented(1), augmented(1))
    assert not torch.equal(augmented(1), augmented(2))


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ((0.0, 0.5, 1.0), (1.0, 0.05, 0.3)),
    ],
)
def test_normalized_is_torchvisions(mean, std):
    images = torch.cat([batch(4, 5, 7), torch.zeros(1, 3, 5, 7).byte(), torch.full((1, 3, 5, 7), 255).byte()])
    expected = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))])(images)
    result = normalized(images, mean, std)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
