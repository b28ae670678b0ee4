"""The networks that can be trained: torchvision's classification networks, described without importing torch."""

from dataclasses import dataclass, replace

from lance_pipeline.errors import InputError
from lance_pipeline.training.recipe import IMAGENET_MEAN, IMAGENET_STD, Triple

DEFAULT_NETWORK = "resnet34"
_HALVES: Triple = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Network:
    """The requirements of a network.

    Attributes:
        name: torchvision's name.
        least_size: the smallest image size, in pixels.
        only_size: the only supported size; None if larger images work too.
        is_resnet: whether it has the stem of a ResNet, and residual branches that can start at zero.
        mean: per-channel mean that normalised the training images of its ImageNet weights.
        std: per-channel standard deviation, likewise.
    """

    name: str = ""
    least_size: int = 1
    only_size: int | None = None
    is_resnet: bool = False
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    def wrong_size(self, image_size: int) -> str | None:
        """Why it cannot take images of this size, in pixels; None if it can."""
        if self.only_size not in (None, image_size):
            return f"`image_size` {image_size} is invalid for `model: {self.name}`, which takes {self.only_size} only"
        if image_size < self.least_size:
            least = f"which takes {self.least_size} or more"
            return f"`image_size` {image_size} is invalid for `model: {self.name}`, {least}"
        return None

    def wrong_stem(self, stem: str) -> str | None:
        """Why it cannot have this stem; None if it can."""
        if stem == "small" and not self.is_resnet:
            return f"`stem: small` is for ResNets; `model: {self.name}` has no such stem, leave `stem` out"
        return None


_FAMILIES = {
    "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d resnext101_64x4d wide_resnet50_2 "
    "wide_resnet101_2": Network(is_resnet=True),
    "convnext_tiny convnext_small convnext_base convnext_large": Network(least_size=32),
    "efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6 "
    "efficientnet_b7 efficientnet_v2_s efficientnet_v2_m": Network(),
    "efficientnet_v2_l": Network(mean=_HALVES, std=_HALVES),
    "vit_b_16 vit_b_32 vit_l_16 vit_l_32 vit_h_14": Network(only_size=224),
    "swin_t swin_s swin_b swin_v2_t swin_v2_s swin_v2_b": Network(),
    "maxvit_t": Network(only_size=224),
    "densenet121 densenet161 densenet169 densenet201": Network(least_size=29),
    "mobilenet_v2 mobilenet_v3_small mobilenet_v3_large": Network(),
    "mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3": Network(),
    "shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0": Network(),
    "regnet_x_400mf regnet_x_800mf regnet_x_1_6gf regnet_x_3_2gf regnet_x_8gf regnet_x_16gf regnet_x_32gf "
    "regnet_y_400mf regnet_y_800mf regnet_y_1_6gf regnet_y_3_2gf regnet_y_8gf regnet_y_16gf regnet_y_32gf "
    "regnet_y_128gf": Network(),
    "vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn": Network(least_size=32),
    "alexnet": Network(least_size=63),
    "squeezenet1_0": Network(least_size=21),
    "squeezenet1_1": Network(least_size=17),
    # torchvision's builder makes these two normalise ImageNet's images again inside the network, to these values.
    "googlenet": Network(least_size=15, mean=_HALVES, std=_HALVES),
    "inception_v3": Network(least_size=75, mean=_HALVES, std=_HALVES),
}
NETWORKS = {name: replace(family, name=name) for names, family in _FAMILIES.items() for name in names.split()}
"""All networks by name. A test compares them with torchvision's."""


def known_network(name: str) -> Network:
    """The network with this name.

    Raises:
        InputError: there is no such network.
    """
    if name not in NETWORKS:
        raise InputError(
            f"unknown network {name!r}; expected the name of a classification network of torchvision, such as "
            f"{DEFAULT_NETWORK}. A later version of lance-pipeline may know it."
        )
    return NETWORKS[name]
