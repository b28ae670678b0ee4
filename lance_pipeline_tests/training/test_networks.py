"""The table of networks, and the networks built from it, compared with torchvision."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision import models
from torchvision.models import get_model, list_models

from lance_pipeline.errors import InputError
from lance_pipeline.training.device import choose_device
from lance_pipeline.training.learner import Learner, decayed_and_spared
from lance_pipeline.training.model import build_network, head_name, official_weights
from lance_pipeline.training.networks import NETWORKS
from lance_pipeline.training.recipe import IMAGENET_MEAN, IMAGENET_STD, Recipe

SMALL = {"resnet18": 32, "shufflenet_v2_x0_5": 32, "squeezenet1_1": 33, "convnext_tiny": 32, "mobilenet_v3_small": 32}
# One of each kind of normalisation, attention and head.
DIVERSE = {**SMALL, "swin_t": 32, "swin_v2_t": 32, "regnet_y_400mf": 32, "densenet121": 32, "googlenet": 32}


class WithoutMemory(TorchFunctionMode):
    """Within the context, tensors have shapes but no values, as the largest networks would not fit into memory."""

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None):
        more = {"device": "meta"} if function in (torch.empty, torch.zeros, torch.ones) else {}
        return function(*args, **(kwargs or {}) | more)


def test_the_names_are_torchvisions():
    assert sorted(NETWORKS) == list_models(module=models)
    assert {name: network.name for name, network in NETWORKS.items()} == {name: name for name in NETWORKS}


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_gets_a_head_for_the_classes_and_nothing_else(name: str):
    with WithoutMemory(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, published = build_network(name, 7), get_model(name, weights=None)
    head = head_name(ours)
    expected = {key: value.shape for key, value in published.state_dict().items()}
    assert (ours.state_dict()[f"{head}.weight"].shape[0], expected[f"{head}.weight"][0]) == (7, 1000)
    others = {key: value.shape for key, value in ours.state_dict().items() if not key.startswith(f"{head}.")}
    assert others == {key: expected[key] for key in others}
    left_out = {key.split(".")[0] for key in expected.keys() - others.keys() - {f"{head}.weight", f"{head}.bias"}}
    assert left_out == {"googlenet": {"aux1", "aux2"}, "inception_v3": {"AuxLogits"}}.get(name, set())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_official_weights_go_with_the_table(name: str):
    official, known = official_weights(name), NETWORKS[name]
    assert known.only_size in (None, official.transforms().crop_size[0])
    assert official.meta["min_size"][0] >= known.least_size
    if name not in ("googlenet", "inception_v3"):
        assert (known.mean, known.std) == (tuple(official.transforms().mean), tuple(official.transforms().std))


def test_the_official_weights_are_the_same_for_ever():
    taken = {name: official_weights(name).name for name in ("resnet34", "resnet50", "convnext_tiny", "vit_h_14")}
    assert taken == {
        "resnet34": "IMAGENET1K_V1",
        "resnet50": "IMAGENET1K_V2",
        "convnext_tiny": "IMAGENET1K_V1",
        "vit_h_14": "IMAGENET1K_SWAG_LINEAR_V1",
    }


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_images_for_official_weights_are_normalised_as_torchvision_does_it(name: str):
    torch.manual_seed(0)
    published: Any = get_model(name, weights=None, transform_input=True, init_weights=False)
    images = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (IMAGENET_MEAN, IMAGENET_STD))
    ours, theirs = (torch.tensor(one).view(3, 1, 1) for one in (NETWORKS[name].mean, NETWORKS[name].std))
    torch.testing.assert_close((images - ours) / theirs, published._transform_input((images - mean) / std))


@pytest.mark.parametrize(
    "name",
    ["alexnet", "convnext_tiny", "densenet121", "googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1", "vgg11"],
)
def test_the_smallest_images_are_those_of_the_table(name: str):
    model, least = build_network(name, 2), NETWORKS[name].least_size
    assert goes_through(model, least)
    assert not goes_through(model, least - 1)


def goes_through(model: nn.Module, side: int) -> bool:
    try:
        with torch.inference_mode():
            return model.train()(torch.zeros(2, 3, side, side)).shape == (2, 2)
    except (RuntimeError, ValueError):
        return False


@pytest.mark.parametrize(("name", "size"), [("vit_b_32", 32), ("inception_v3", 74), ("maxvit_t", 256)])
def test_a_size_that_a_network_does_not_take_is_named(name: str, size: int):
    assert f"`model: {name}`" in (NETWORKS[name].wrong_size(size) or "")
    assert NETWORKS[name].wrong_size(224) is None


@pytest.mark.parametrize("name", [name for name, network in NETWORKS.items() if network.is_resnet])
def test_every_resnet_has_a_small_stem(name: str):
    with WithoutMemory():
        model: Any = build_network(name, 2, "small")
    assert (model.conv1.stride, model.maxpool.kernel_size) == ((1, 1), 1)


def test_what_cannot_be_built_is_named():
    with pytest.raises(InputError, match="efficientnet_b0"):
        build_network("efficientnet_b0", 2, "small")
    with pytest.raises(InputError, match="resnet35"):
        build_network("resnet35", 2)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "squeezenet1_1", "convnext_tiny", "shufflenet_v2_x0_5"])
def test_official_weights_fit_but_for_the_head(tmp_path, name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        published = get_model(name, weights=None).state_dict()
    # torchvision's file also contains the auxiliary classifiers.
    torch.save(published, tmp_path / official_weights(name).url.rpartition("/")[2])
    model = build_network(name, 3, weights="imagenet", downloads=str(tmp_path))
    head = head_name(model)
    for key, value in model.state_dict().items():
        assert key.startswith(f"{head}.") or torch.equal(value, published[key]), key


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save(build_network("resnet18", 2).state_dict(), path)
    for name in ("convnext_tiny", "resnet50"):
        with pytest.raises(InputError, match=rf"resnet18\.pth` do not fit `model: {name}`"):
            build_network(name, 2, weights=str(path))


@pytest.mark.parametrize(("name", "size"), DIVERSE.items())
def test_a_step_changes_what_it_should(name: str, size: int):
    """First only the head changes; then all weights, and their average follows."""
    torch.manual_seed(0)
    learner = Learner(
        build_network(name, 2), Recipe(epochs=2, batch_size=4, freeze_epochs=1), choose_device("cpu"), steps=4
    )
    images, labels = torch.randn(4, 3, size, size), torch.tensor([0, 1, 1, 1])
    head = head_name(learner.model)

    def moved(epoch: int) -> set[str]:
        learner.begin_epoch(epoch)
        before = {key: value.clone() for key, value in learner.model.state_dict().items()}
        assert torch.isfinite(learner.step(images, labels))
        return {key for key, value in learner.model.state_dict().items() if not torch.equal(before[key], value)}

    assert moved(0) == {f"{head}.weight", f"{head}.bias"}
    # Branches dropped by stochastic depth, and biases that a norm cancels, do not change.
    assert len(moved(1)) > len(learner.model.state_dict()) / 3
    averaged = learner.evaluation_model.state_dict()
    assert {key for key, value in learner.model.state_dict().items() if not torch.equal(averaged[key], value)}


def test_norms_biases_positions_and_scales_do_not_decay():
    for name in ("resnet18", "convnext_tiny", "swin_v2_t", "vit_b_32"):
        with WithoutMemory():
            model = build_network(name, 2)
        decayed = {id(parameter) for parameter in decayed_and_spared(model)[0]}
        names = {key for key, parameter in model.named_parameters() if id(parameter) in decayed}
        linear = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
        within = {key for key, module in model.named_modules() if isinstance(module, linear)}
        assert {key.rpartition(".")[0] for key in names} == within
        assert all(key.endswith("weight") for key in names)
