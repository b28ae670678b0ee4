"""A short training in a separate process: ``python -m benchmarks.gpu.repeat DEVICE STEPS BATCH``.

Prints the SHA-256 of the weights, averaged ones included.
"""

import hashlib
import sys

import torch

from lance_pipeline.training.device import choose_device, reproducible
from lance_pipeline.training.learner import Learner
from lance_pipeline.training.model import build_network
from lance_pipeline.training.recipe import Recipe

_CLASSES, _SIZE, _BATCHES = 10, 32, 8


def main(name: str, steps: str, batch: str) -> None:
    """Train with the default recipe on a few random batches, repeatedly."""
    device, recipe = choose_device(name), Recipe()
    torch.manual_seed(recipe.seed)
    model = build_network("resnet34", _CLASSES, recipe.stem)
    shape = int(batch), 3, _SIZE, _SIZE
    batches = [(torch.randn(shape), torch.randint(_CLASSES, shape[:1])) for _ in range(_BATCHES)]
    learner = Learner(model, recipe, device, steps=int(steps))
    with reproducible():
        learner.begin_epoch(0)
        for number in range(int(steps)):
            images, labels = batches[number % _BATCHES]
            learner.step(images.to(device.torch_device), labels.to(device.torch_device))
    digest = hashlib.sha256()
    for state in (learner.model.state_dict(), learner.evaluation_model.state_dict()):
        for value in state.values():
            digest.update(value.cpu().numpy().tobytes())
    print(digest.hexdigest())


if __name__ == "__main__":
    main(*sys.argv[1:])
