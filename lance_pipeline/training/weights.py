"""A trained model on disk: safetensors weights and a small JSON that explains them."""

import hashlib
import os
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torchvision.models import ResNet

from lance_pipeline.errors import InputError
from lance_pipeline.training.model import build_resnet34
from lance_pipeline.training.recipe import Triple

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "model.json"


class ModelCard(BaseModel):
    """All that is needed to use the weights: written beside them as ``model.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: Literal["resnet34"] = "resnet34"
    stem: Literal["imagenet", "small"]
    classes: list[str]
    image_size: int
    fit: Literal["crop", "squash"]
    mean: Triple
    std: Triple


def save_model(folder: Path, state: dict[str, torch.Tensor], card: ModelCard) -> str:
    """Write weights and card, each whole or not at all; returns the SHA-256 of the weights file.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        work = folder / f".{WEIGHTS_FILE}"
        save_file(state, work)
        os.replace(work, folder / WEIGHTS_FILE)
        work = folder / f".{CARD_FILE}"
        work.write_text(card.model_dump_json(indent=2) + "\n")
        os.replace(work, folder / CARD_FILE)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot write the model to {folder}: {error}. Free some space, or move all data with LANCE_PIPELINE_DATA."
        ) from error
    return _sha256(folder / WEIGHTS_FILE)


def load_model(folder: Path, sha256: str | None = None) -> tuple[ResNet, ModelCard]:
    """The model in evaluation mode on the CPU, and its card.

    Raises:
        InputError: files are missing or broken, or the weights are not those of ``sha256``.
    """
    try:
        card = ModelCard.model_validate_json((folder / CARD_FILE).read_text())
        model = build_resnet34(len(card.classes), card.stem)
        model.load_state_dict(read_weights(folder, sha256))
    except (OSError, UnicodeDecodeError, ValidationError, RuntimeError) as error:
        raise _unreadable(folder, error) from error
    return model.eval(), card


def read_weights(folder: Path, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """The weights alone.

    Raises:
        InputError: the file is missing or broken, or not that of ``sha256``.
    """
    try:
        if sha256 is not None and _sha256(folder / WEIGHTS_FILE) != sha256:
            raise InputError(f"the weights in {folder} are not those that were trained: their SHA-256 differs.")
        return load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: Exception) -> InputError:
    return InputError(f"cannot load the model in {folder}: {error}. Materialize the model again.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
