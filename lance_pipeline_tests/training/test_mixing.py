import torch

from lance_pipeline.loader.augmentation import normalized
from lance_pipeline.training.mixing import BatchTransform
from lance_pipeline.training.recipe import Recipe

NORMALIZATION = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
LABELS = torch.tensor([0, 1, 2, 1])


def images() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)


def test_nothing_is_done_unless_asked():
    given = normalized(images(), *NORMALIZATION)
    mixed, labels = BatchTransform(Recipe(), 3, NORMALIZATION)(given, LABELS)
    assert mixed is given
    assert labels is LABELS


def test_randaugment_takes_bytes_and_normalises():
    recipe = Recipe(randaugment=9)
    assert BatchTransform.takes_bytes(recipe)
    torch.manual_seed(3)
    augmented, labels = BatchTransform(recipe, 3, NORMALIZATION)(images(), LABELS)
    assert (augmented.dtype, augmented.shape) == (torch.float32, (4, 3, 8, 8))
    assert not torch.equal(augmented, normalized(images(), *NORMALIZATION))
    assert labels is LABELS
    torch.manual_seed(3)
    assert torch.equal(BatchTransform(recipe, 3, NORMALIZATION)(images(), LABELS)[0], augmented)


def test_mixed_labels_are_shares_that_add_up():
    for fields in ({"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}):
        recipe = Recipe.model_validate(fields)
        mixed, labels = BatchTransform(recipe, 3, NORMALIZATION)(normalized(images(), *NORMALIZATION), LABELS)
        assert mixed.shape == (4, 3, 8, 8)
        assert labels.shape == (4, 3)
        torch.testing.assert_close(labels.sum(1), torch.ones(4))
