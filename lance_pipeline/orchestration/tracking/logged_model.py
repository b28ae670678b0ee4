"""The trained network as MLflow loads it.

MLflow keeps this file beside weights and card, and runs it to load the model: it needs nothing of this package.
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
    """From RGB images to probabilities, on a GPU where there is one."""

    def load_context(self, context: PythonModelContext) -> None:
        """Build the network that the card describes, with the weights beside the card."""
        path = Path(context.artifacts["card"])
        card = json.loads(path.read_text(encoding="utf-8"))
        # Models of before other networks could be chosen are ResNet-34.
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

    # MLflow takes neither a narrower type nor another number of arguments.
    def predict(self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None):  # noqa: ARG002
        """Probabilities, float32 (n, classes), in the order of the card's classes.

        Args:
            context: of the model.
            model_input: RGB images, float32 (n, 3, image_size, image_size), from 0 to 255.
            params: none are known.
        """
        images = torch.from_numpy(np.ascontiguousarray(model_input, dtype=np.float32)).to(self._device)
        with torch.inference_mode():
            return self._network((images / 255 - self._mean) / self._std).softmax(dim=1).cpu().numpy()


set_model(ImageClassifier())
