import pickle
import urllib.request
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import ResNet, resnet18, resnet34

from lance_pipeline.errors import InputError, ServiceError
from lance_pipeline.training.model import build_network


@pytest.fixture(scope="module")
def official() -> dict[str, torch.Tensor]:
    """Weights in the official layout, with a head for 1000 classes."""
    return resnet34(weights=None).state_dict()


@pytest.fixture
def offline(monkeypatch):
    """Make every connection fail at once, whether or not this machine has a network."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # The proxies are read on the first connection.
    monkeypatch.setattr(urllib.request, "_opener", None)


def backbone(state) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_logits_for_each_class(stem):
    model = build_network("resnet34", 7, stem).eval()
    with torch.inference_mode():
        assert model(torch.zeros(3, 3, 32, 32)).shape == (3, 7)


def test_the_small_stem_keeps_names_and_shapes_and_more_pixels():
    published, small = (cast("ResNet", build_network("resnet34", 5, stem)) for stem in ("imagenet", "small"))
    shapes = {key: value.shape for key, value in published.state_dict().items()}
    assert {key: value.shape for key, value in small.state_dict().items()} == shapes
    image = torch.zeros(1, 3, 32, 32)
    with torch.inference_mode():
        assert published.maxpool(published.conv1(image)).shape == (1, 64, 8, 8)
        assert small.maxpool(small.conv1(image)).shape == (1, 64, 32, 32)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file_get_a_new_head(tmp_path, official, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(official, path)
    else:
        save_file(official, path)
    state = build_network("resnet34", 3, "small", str(path)).state_dict()
    assert_same(backbone(state), backbone(official))
    assert state["fc.weight"].shape == (3, 512)


def test_weights_without_a_head_are_enough(tmp_path, official):
    path = tmp_path / "headless.safetensors"
    save_file(backbone(official), path)
    assert_same(backbone(build_network("resnet34", 3, "imagenet", str(path)).state_dict()), backbone(official))


def test_missing_weights_file(tmp_path):
    with pytest.raises(InputError, match=r"`weights: .*gone\.pth` is not a file.*`none`, `imagenet`"):
        build_network("resnet34", 2, "small", str(tmp_path / "gone.pth"))


def test_weights_of_another_architecture(tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save(resnet18(weights=None).state_dict(), path)
    with pytest.raises(InputError, match=r"resnet18\.pth` do not fit `model: resnet34`: .*keys differ.*resnet34"):
        build_network("resnet34", 2, "small", str(path))


def test_weights_of_another_shape(tmp_path, official):
    path = tmp_path / "wide.safetensors"
    save_file(official | {"conv1.weight": torch.zeros(32, 3, 7, 7)}, path)
    with pytest.raises(InputError, match=r"(?s)wide\.safetensors`.*`model: resnet34`.*conv1\.weight"):
        build_network("resnet34", 2, "small", str(path))


@pytest.mark.parametrize(
    "content", [[1, 2], torch.zeros(3), {1: torch.zeros(3)}, {"conv1.weight": "text"}, {"state_dict": {}}]
)
def test_a_file_with_something_other_than_a_state_dict(tmp_path, content):
    path = tmp_path / "odd.pth"
    torch.save(content, path)
    with pytest.raises(InputError, match=r"odd\.pth` do not fit `model: resnet34`"):
        build_network("resnet34", 2, "small", str(path))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_garbage(tmp_path, suffix):
    path = tmp_path / f"garbage{suffix}"
    path.write_bytes(b"garbage " * 20)
    with pytest.raises(InputError, match=rf"(?s)garbage\{suffix}`"):
        build_network("resnet34", 2, "small", str(path))


class Trap:
    """A pickled object that creates a file when it is loaded unsafely."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self):
        return Path.touch, (self.sprung,)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_malicious_file_is_not_executed(tmp_path, how):
    path, sprung = tmp_path / "trap.pth", tmp_path / "sprung"
    if how == "torch":
        torch.save({"conv1.weight": Trap(sprung)}, path)
    else:
        path.write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    with pytest.raises(
        InputError, match=r"trap\.pth` cannot be read.*more than tensors.*nothing but a state dict"
    ) as caught:
        build_network("resnet34", 2, "small", str(path))
    assert not sprung.exists()
    assert "weights_only" not in str(caught.value)

    # The trap itself works, so it is the package that avoids it.
    if how == "torch":
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert sprung.exists()


@pytest.mark.usefixtures("offline")
def test_imagenet_weights_without_a_network(tmp_path):
    with pytest.raises(ServiceError, match=r"`weights: none`.*resnet34-"):
        build_network("resnet34", 2, "small", "imagenet", str(tmp_path))


@pytest.mark.usefixtures("offline")
def test_imagenet_weights_that_cannot_be_kept_or_read_are_no_matter_of_the_network(tmp_path, below_a_file):
    with pytest.raises(InputError, match="below"):
        build_network("resnet34", 2, "small", "imagenet", below_a_file)
    damaged = tmp_path / "resnet34-b627a593.pth"
    damaged.write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"resnet34-b627a593\.pth"):
        build_network("resnet34", 2, "small", "imagenet", str(tmp_path))


@pytest.mark.usefixtures("offline")
def test_imagenet_weights_that_were_kept_need_no_network(tmp_path, official):
    torch.save(official, tmp_path / "resnet34-b627a593.pth")
    state = build_network("resnet34", 2, "imagenet", "imagenet", str(tmp_path)).state_dict()
    assert_same(backbone(state), backbone(official))
