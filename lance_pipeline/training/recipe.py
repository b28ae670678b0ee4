"""The training recipe: all settings that change what a model learns."""

import math
from collections.abc import Collection
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from lance_pipeline.settings import StrictModel

CODE_VERSION = "4"
"""Version of the training's computation: another version trains other weights from the same recipe and data."""

# Always part of a training's identity, even at their defaults; settings added later count only if they differ.
_ALWAYS_IDENTIFYING = (
    "preset", "epochs", "batches_per_epoch", "batch_size", "learning_rate", "momentum", "schedule", "weight_decay",
    "gradient_clip", "averaging", "label_smoothing", "class_weights", "flip", "crop_padding", "resized_crop",
    "crop_from", "randaugment", "mixup", "cutmix", "fit", "mean", "std", "weights", "freeze_epochs", "stem", "best_by",
    "patience", "precision", "deterministic", "step", "seed",
)  # fmt: skip

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)

# The settings of the article "Use a Lance Image Dataset to train a Image Classification model"
# (V. Maheshwari, 2024); mean and std are CIFAR-10's.
_ARTICLE: dict[str, Any] = {
    "epochs": 50,
    "batches_per_epoch": 256,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "momentum": 0.9,
    "schedule": "constant",
    "weight_decay": 0.0,
    "averaging": 0.0,
    "label_smoothing": 0.0,
    "flip": True,
    "crop_padding": 0,
    "fit": "squash",
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2023, 0.1994, 0.2010),
    "weights": "imagenet",
    "freeze_epochs": 0,
    "resized_crop": None,
    "stem": "imagenet",
}
PRESETS: dict[str, dict[str, Any]] = {"article": _ARTICLE}

# Few images need many epochs to make enough steps; for many images, a few epochs are enough.
_AUTO_IMAGES = 300 * 64
_AUTO_EPOCHS = (16, 100)
# Batch norm needs a variance.
_LEAST_BATCH = 2
_SMALL_BATCH = 64
_STEPS_PER_EPOCH = 64
# As in fastai's `fine_tune` and vision transforms (Howard and Gugger, "fastai: A Layered API for Deep Learning", 2020):
# train the new head first, and crop at random, because a model soon memorizes few images.
_FEW_IMAGES = 10_000
_FEW_IMAGES_DEFAULTS: dict[str, Any] = {"freeze_epochs": 1, "resized_crop": (0.35, 1.0)}
# By image size in pixels: just enough to keep a large card busy, as larger batches learn less from each image.
_CUDA_BATCHES = ((48, 512), (128, 256), (320, 128), (math.inf, 64))


def later_defaults(settings: BaseModel, known: Collection[str]) -> dict[str, Any]:
    """The fields that an identity leaves out, as pydantic's ``exclude``: all at their defaults except ``known``.

    A new setting therefore changes no existing identity.

    Args:
        settings: the settings, possibly nested.
        known: the names, at any depth, of fields that always count.
    """
    found: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if name not in known and value == field.get_default(call_default_factory=True):
            found[name] = True
        elif isinstance(value, BaseModel) and (inner := later_defaults(value, known)):
            found[name] = inner
    return found


class Recipe(StrictModel):
    """How the model is trained. A preset sets all fields; fields set beside it override the preset."""

    preset: Literal["article"] | None = Field(
        default=None,
        description="Start from a named recipe: `article` is the one of the article that this project grew from.",
    )
    epochs: int | Literal["auto"] = Field(
        default="auto",
        examples=[16],
        description="Passes over the training split. `auto` is as many as make 300 batches of 64, at least 16 and at "
        "most 100.",
    )
    batches_per_epoch: int | None = Field(
        default=None,
        ge=1,
        examples=[256],
        description="End each epoch after this many batches; after the whole split when unset.",
    )
    batch_size: int | Literal["auto"] = Field(
        default="auto",
        examples=[64],
        description="Images in a batch. `auto` is 64, on CUDA up to 512, depending on image size and number of images.",
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        examples=[0.01],
        description="The peak learning rate; when unset 0.05 with random and 0.01 with pretrained weights, times the "
        "batch size divided by 64 if that is `auto`.",
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of SGD.")
    schedule: Literal["one_cycle", "constant"] = Field(
        default="one_cycle",
        description="`one_cycle` warms up and anneals once over the whole training (torch's OneCycleLR).",
    )
    weight_decay: float = Field(default=5e-4, ge=0, description="L2 penalty, except on norms and biases.")
    gradient_clip: float | None = Field(
        default=None,
        gt=0,
        examples=[1.0],
        description="The greatest norm of all gradients together; larger ones are scaled down.",
    )
    averaging: float = Field(
        default=0.95,
        ge=0,
        lt=1,
        description="Decay of a moving average of the weights, which is validated and saved instead of them: 0.95 "
        "averages over about 20 batches, 0.999 over 1,000. 0 uses the weights themselves.",
    )
    label_smoothing: float = Field(default=0.1, ge=0, lt=1, description="Share of the target spread over all classes.")
    class_weights: Literal["none", "balanced"] = Field(
        default="none", description="`balanced` weighs each image by the rarity of its class in the training split."
    )
    flip: bool = Field(default=True, description="Mirror half of the training images left to right.")
    crop_padding: int | None = Field(
        default=None,
        ge=0,
        examples=[4],
        description="Shift training images by up to this many pixels; when unset an eighth of the image size, or 0 "
        "with `resized_crop`.",
    )
    resized_crop: tuple[float, float] | None = Field(
        default=None,
        examples=[[0.25, 1.0]],
        description="Train on random parts of the images, resized: the least and greatest share of the area, such as "
        "[0.25, 1.0]; when unset [0.35, 1.0] with pretrained weights on fewer than 10,000 images.",
    )
    crop_from: int | None = Field(
        default=None,
        ge=8,
        examples=[72],
        description="With `resized_crop`, crop from images whose shorter side was resized to this many pixels, which "
        "are cached; from the original images when unset.",
    )
    randaugment: int = Field(
        default=0,
        ge=0,
        le=30,
        description="Magnitude of RandAugment: two random operations on each training image; 0 disables it.",
    )
    mixup: float = Field(
        default=0.0, ge=0, description="Blend pairs of training images: alpha of the Beta distribution; 0 disables it."
    )
    cutmix: float = Field(
        default=0.0,
        ge=0,
        description="As `mixup`, with a part of one image in the other. With both, each batch uses one at random.",
    )
    fit: Literal["crop", "squash"] = Field(
        default="crop",
        description="How images become square: `crop` (scale the shorter side, crop the centre) or `squash`.",
    )
    mean: Triple | None = Field(
        default=None,
        examples=[[0.5, 0.5, 0.5]],
        description="Normalisation, per channel from 0 to 1; when unset the training split's (ImageNet's with its "
        "weights).",
    )
    std: Triple | None = Field(
        default=None, examples=[[0.25, 0.25, 0.25]], description="As `mean`: set both or neither."
    )
    weights: str = Field(
        default="auto",
        description="`none` (random), `imagenet` (torchvision's, downloaded once), or a file (.safetensors, .pth). "
        "`auto` is `imagenet` if images and `image_size` have at least 64 pixels and the weights can be downloaded, "
        "else `none`; the log and the model's page show which.",
    )
    freeze_epochs: int = Field(
        default=0,
        ge=0,
        description="First epochs in which only the head is trained, for pretrained weights; when unset 1 with "
        "pretrained weights on fewer than 10,000 images, else 0.",
    )
    stem: Literal["imagenet", "small"] = Field(
        default="imagenet",
        description="`small` removes stride and pooling from a ResNet's stem, for images of about 32 pixels.",
    )
    best_by: Literal["accuracy", "macro_f1", "loss"] = Field(
        default="accuracy", description="The validation metric that selects the best epoch."
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        examples=[5],
        description="Stop after this many epochs without a better one; never early when unset.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto",
        description="Precision of the forward pass; `auto` is the setting of the resource `gpu`: mixed on CUDA only.",
    )
    deterministic: bool = Field(
        default=True,
        description="On CUDA use only algorithms whose results are bitwise reproducible; false lets cuDNN select the "
        "fastest.",
    )
    step: Literal["auto", "eager", "graph"] = Field(
        default="auto",
        description="How a step runs: `graph` records it once as a CUDA graph, `eager` launches kernel by kernel; "
        "`auto` uses a graph where possible.",
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of the initial head, the order of images and the augmentation."
    )

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("preset") in PRESETS:
            return PRESETS[fields["preset"]] | fields
        return fields

    @model_validator(mode="after")
    def _both_or_neither(self) -> "Recipe":
        if (self.mean is None) != (self.std is None):
            raise ValueError("set both `mean` and `std`, or neither")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("each value of `std` must be above 0")
        if self.mean is not None and max(*self.mean, *(self.std or ())) > 1:
            raise ValueError("`mean` and `std` are on the scale from 0 to 1: divide those of bytes by 255")
        return self

    @field_validator("weights")
    @classmethod
    def _known_or_file(cls, weights: str) -> str:
        # A path has a slash or a suffix; `{{ env.WEIGHTS }}` is checked again once it is filled in.
        if weights not in ("auto", "none", "imagenet") and not any(sign in weights for sign in ("/", ".", "{{")):
            raise ValueError(
                f"`weights: {weights}` is not known; expected auto, none, imagenet, or a .safetensors or .pth file"
            )
        return weights

    @field_validator("epochs")
    @classmethod
    def _at_least_one(cls, epochs: int | str) -> int | str:
        if isinstance(epochs, int) and epochs < 1:
            raise ValueError(f"{epochs} is not `auto` or a number from 1 on")
        return epochs

    @field_validator("batch_size")
    @classmethod
    def _at_least_two(cls, batch_size: int | str) -> int | str:
        if isinstance(batch_size, int) and batch_size < _LEAST_BATCH:
            raise ValueError(f"{batch_size} is not `auto` or a number from {_LEAST_BATCH} on")
        return batch_size

    @model_validator(mode="after")
    def _crops_in_order(self) -> "Recipe":
        if self.resized_crop and not 0 < self.resized_crop[0] <= self.resized_crop[1] <= 1:
            raise ValueError(
                f"`resized_crop` {list(self.resized_crop)} is not a pair of shares from 0 to 1, the smaller first"
            )
        if self.crop_from and not self.resized_crop:
            raise ValueError("`crop_from` requires `resized_crop`, which is not set")
        return self

    def identity(self) -> dict[str, Any]:
        """The settings that distinguish trainings, JSON-compatible; a new setting at its default changes none."""
        return self.model_dump(mode="json", exclude=later_defaults(self, _ALWAYS_IDENTIFYING))

    @property
    def begins_trained(self) -> bool:
        """Whether training starts from trained weights; an unresolved ``auto`` counts as random."""
        return self.weights not in ("none", "auto")

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate, or the default for this type of weights."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 0.01 if self.begins_trained else 0.05

    @property
    def images_per_batch(self) -> int:
        """The batch size, once ``resolved`` has set it.

        Raises:
            ValueError: it is still ``auto``.
        """
        if self.batch_size == "auto":
            raise ValueError("`batch_size: auto` is set by `resolved`")
        return self.batch_size

    def resolved(self, device: str, image_size: int, images: int) -> Self:
        """The recipe with ``auto`` and unset values filled in, except weights and normalisation.

        The learning rate scales with the batch size (Goyal et al., "Accurate, Large Minibatch SGD", 2017), unless it
        was given.

        Args:
            device: torch's device type, such as ``cuda``.
            image_size: height and width, in pixels.
            images: the number of images in the training split.
        """
        batch_size = self.batch_size
        rate = self.peak_learning_rate
        if batch_size == "auto":
            batch_size = _cuda_batch(image_size, images) if device == "cuda" else _SMALL_BATCH
            rate = self.learning_rate or rate * batch_size / _SMALL_BATCH
        few = self.begins_trained and images < _FEW_IMAGES
        # Set in either case, so that resolving again changes nothing.
        defaults = {
            name: value if few and name not in self.model_fields_set else getattr(self, name)
            for name, value in _FEW_IMAGES_DEFAULTS.items()
        }
        recipe = self.model_copy(update=defaults)
        settled = {
            "batch_size": batch_size,
            "learning_rate": rate,
            "epochs": self.epochs_for(images),
            "crop_padding": recipe.padding_for(image_size),
        }
        return recipe.model_copy(update=settled)

    def padding_for(self, image_size: int) -> int:
        """The largest shift of training images, in pixels."""
        if self.crop_padding is not None:
            return self.crop_padding
        return 0 if self.resized_crop else image_size // 8

    def epochs_for(self, images: int) -> int:
        """The number of epochs for a training split of this many images."""
        if self.epochs != "auto":
            return self.epochs
        return min(max(math.ceil(_AUTO_IMAGES / max(images, 1)), _AUTO_EPOCHS[0]), _AUTO_EPOCHS[1])

    def normalization(
        self, mean: Triple, std: Triple, pretrained: tuple[Triple, Triple] = (IMAGENET_MEAN, IMAGENET_STD)
    ) -> tuple[Triple, Triple]:
        """The mean and std to use, given those of the training split and those of the ImageNet weights."""
        if self.mean is not None and self.std is not None:
            return self.mean, self.std
        if self.weights == "imagenet":
            return pretrained
        # A constant channel would divide by zero.
        r, g, b = (value or 1.0 for value in std)
        return mean, (r, g, b)


def _cuda_batch(image_size: int, images: int) -> int:
    by_size = next(batch for pixels, batch in _CUDA_BATCHES if image_size <= pixels)
    # On a small split, a large batch would leave too few steps per epoch.
    by_count = 1 << max(images // _STEPS_PER_EPOCH, 1).bit_length() - 1
    return max(min(by_size, by_count), _SMALL_BATCH)
