"""A trained model on disk: safetensors weights and a small JSON that explains them."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from lance_pipeline.errors import DamagedError, InputError
from lance_pipeline.storage import sealed
from lance_pipeline.storage.transparency import EARLIER, Transparency
from lance_pipeline.storage.whole_files import whole_file, write_whole
from lance_pipeline.training.device import own_random_numbers
from lance_pipeline.training.model import build_network
from lance_pipeline.training.networks import DEFAULT_NETWORK
from lance_pipeline.training.recipe import Triple

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "model.json"
_WEIGHTS_KEY = "weights_sha256"
_WAY_OUT = "Restore the files from a copy, or materialize the model again."


class ModelCard(BaseModel):
    """Everything needed to use the weights; stored beside them as ``model.json``, with the weights' SHA-256."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    architecture: str = DEFAULT_NETWORK
    stem: Literal["imagenet", "small"]
    classes: list[str]
    image_size: int
    fit: Literal["crop", "squash"]
    mean: Triple
    std: Triple
    transparency: Transparency = EARLIER


def save_model(folder: Path, state: dict[str, torch.Tensor], card: ModelCard) -> str:
    """Write weights and card, each atomically; returns the SHA-256 of the weights file.

    Raises:
        InputError: the folder cannot be written.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    try:
        with whole_file(folder / WEIGHTS_FILE) as work:
            save_file(state, work)
        sha256 = _sha256(folder / WEIGHTS_FILE)
        fields = json.loads(card.model_dump_json()) | {_WEIGHTS_KEY: sha256}
        write_whole(folder / CARD_FILE, sealed.to_json(fields))
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot write the model to {folder}: {error}. Free some space, or move all data with LANCE_PIPELINE_DATA."
        ) from error
    return sha256


@own_random_numbers()
def load_model(folder: Path, sha256: str | None = None) -> tuple[nn.Module, ModelCard]:
    """The model in evaluation mode on the CPU, and its card.

    Args:
        folder: the folder of weights and card.
        sha256: the expected digest of the weights; that in the card when None.

    Raises:
        DamagedError: a file is missing or damaged.
        InputError: a file cannot be read, or a later version wrote it.
    """
    try:
        fields = _card_fields(folder / CARD_FILE)
        card = ModelCard.model_validate(fields)
        state = read_weights(folder, sha256 or fields.get(_WEIGHTS_KEY))
        model = build_network(card.architecture, len(card.classes), card.stem)
        model.load_state_dict(state)
    except (OSError, ValidationError, RuntimeError) as error:
        raise _unreadable(folder, error) from error
    return model.eval(), card


def read_weights(folder: Path, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """Load the weights only.

    Raises:
        DamagedError: the file is missing or damaged, or does not match ``sha256``.
        InputError: it cannot be read.
    """
    path = folder / WEIGHTS_FILE
    try:
        if sha256 is not None and _sha256(path) != sha256:
            raise DamagedError(f"the weights {path} are not those that were saved: their SHA-256 differs. {_WAY_OUT}")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(folder, error) from error


def _card_fields(path: Path) -> dict[str, Any]:
    try:
        return sealed.from_json(path.read_bytes(), str(path), "materialize the model again").fields
    except DamagedError as error:
        raise DamagedError(f"{error}. {_WAY_OUT}") from error


def _unreadable(folder: Path, error: Exception) -> InputError:
    if isinstance(error, PermissionError):
        return InputError(f"cannot read the model in {folder}: {error}. Give yourself the right to read it.")
    return DamagedError(f"cannot load the model in {folder}: {error}. {_WAY_OUT}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
