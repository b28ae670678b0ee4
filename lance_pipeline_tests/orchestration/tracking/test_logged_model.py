"""The code that MLflow stores beside the weights."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lance_pipeline.orchestration.tracking import logged_model
from lance_pipeline.training.model import build_network
from lance_pipeline.training.weights import ModelCard, load_model, save_model


@pytest.mark.parametrize(
    ("name", "stem", "size"),
    [
        ("resnet34", "small", 32),
        ("resnet34", "imagenet", 32),
        ("squeezenet1_1", "imagenet", 32),
        ("googlenet", "imagenet", 32),
        ("inception_v3", "imagenet", 75),
        ("swin_v2_t", "imagenet", 32),
    ],
)
def test_it_gives_what_the_network_does(tmp_path: Path, name: str, stem: Any, size: int):
    torch.manual_seed(0)
    network = build_network(name, 3, stem)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    about = {"architecture": name, "stem": stem, "image_size": size, "fit": "crop"}
    card = ModelCard.model_validate(about | {"classes": ["a", "b", "ä"], "mean": mean, "std": std})
    save_model(tmp_path, network.state_dict(), card)
    context: Any = SimpleNamespace(artifacts={"card": str(tmp_path / "model.json")})
    images = np.random.default_rng(0).uniform(0, 255, (2, 3, size, size)).astype(np.float32)

    classifier = logged_model.ImageClassifier()
    classifier.load_context(context)
    found = classifier.predict(context, images)

    loaded, _ = load_model(tmp_path)
    normalized = (torch.from_numpy(images) / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.inference_mode():
        expected = loaded(normalized).softmax(dim=1).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_it_needs_nothing_of_this_package():
    assert "lance_pipeline" not in Path(logged_model.__file__).read_text()
