"""The inputs of a training."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lance_pipeline.errors import InputError
from lance_pipeline.imaging.channels import ChannelSums
from lance_pipeline.storage.lance_split import LanceSplit
from lance_pipeline.training.networks import DEFAULT_NETWORK, known_network
from lance_pipeline.training.recipe import CODE_VERSION, Recipe
from lance_pipeline.training.weights import ModelCard


@dataclass(frozen=True)
class TrainingInputs:
    """Everything but the code that determines what a training learns.

    Attributes:
        train: the version of the split to learn from; it also determines the classes and the normalisation.
        val: the version of the split that selects the best epoch.
        recipe: all settings of the training.
        image_size: height and width of the images that the model sees, in pixels.
        network: torchvision's name of the network.
    """

    train: LanceSplit
    val: LanceSplit
    recipe: Recipe
    image_size: int
    network: str = DEFAULT_NETWORK

    def identity(self) -> dict[str, Any]:
        """JSON-compatible; two trainings with the same identity learn the same.

        A resolved recipe is expected: ``auto`` values depend on the device.
        """
        weights = Path(self.recipe.weights)
        # The default is left out, so that trainings from before the network could be chosen keep their identity.
        chosen = {} if self.network == DEFAULT_NETWORK else {"model": self.network}
        return chosen | {
            "code": CODE_VERSION,
            "train": _content(self.train),
            "val": _content(self.val),
            "recipe": self.recipe.identity(),
            "image_size": self.image_size,
            "weights": hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else self.recipe.weights,
        }

    def card(self) -> ModelCard:
        """The card of the model that is trained.

        Raises:
            InputError: the split was not made by an ingest, or the network does not accept images of this size.
        """
        known, split = known_network(self.network), self.train
        if wrong := known.wrong_size(self.image_size):
            raise InputError(f"{wrong}.")
        if "channels" not in split.facts:
            raise InputError(f"{split.uri} was not made by an ingest, so its mean and std are unknown. Ingest it.")
        sums = ChannelSums.model_validate(split.facts["channels"])
        mean, std = self.recipe.normalization(sums.mean(), sums.std(), pretrained=(known.mean, known.std))
        return ModelCard(
            architecture=self.network,
            stem=self.recipe.stem,
            classes=split.classes,
            image_size=self.image_size,
            fit=self.recipe.fit,
            mean=mean,
            std=std,
            transparency=split.transparency,
        )


def _content(split: LanceSplit) -> dict[str, Any]:
    return {"uri": split.uri, "version": split.version, "fingerprint": split.facts.get("fingerprint")}
