"""The trained network in the form that MLflow loads.

MLflow stores this file beside the weights and the card, and runs it to load the model. It must not import this package.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from safetensors.torch import load_file
from torch import nn
from torchvision.models import get_model


class ImageClassifier(PythonModel):
    """Maps RGB images to class probabilities, on a GPU if there is one."""

    def load_context(self, context: PythonModelContext) -> None:
        """Build the network described by the card, with the weights beside it."""
        path = Path(context.artifacts["card"])
        card = json.loads(path.read_text(encoding="utf-8"))
        # Cards written before networks could be chosen belong to ResNet-34.
        name = card.get("architecture", "resnet34")
        plain = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
        network: Any = get_model(name, weights=None, num_classes=len(card["classes"]), **plain)
        if name.startswith("squeezenet"):
            network.classifier[2] = nn.Identity()
        if card["stem"] == "small":
            network.conv1.stride = (1, 1)
            network.maxpool = nn.MaxPool2d(1)
        network.load_state_dict(load_file(path.with_name("model.safetensors")))
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network = network.eval().to(self._device)
        mean, std = (torch.tensor(card[name], device=self._device) for name in ("mean", "std"))
        self._mean, self._std = mean.view(3, 1, 1), std.view(3, 1, 1)

    # MLflow accepts neither a narrower type nor a different number of arguments.
    def predict(self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None):  # noqa: ARG002
        """Probabilities, float32 (n, classes), in the order of the card's classes.

        Args:
            context: context of the model.
            model_input: RGB images, float32 (n, 3, image_size, image_size), from 0 to 255.
            params: unused; there are none.
        """
        images = torch.from_numpy(np.ascontiguousarray(model_input, dtype=np.float32)).to(self._device)
        with torch.inference_mode():
            return self._network((images / 255 - self._mean) / self._std).softmax(dim=1).cpu().numpy()


set_model(ImageClassifier())
