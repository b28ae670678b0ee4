"""A hand-written training: only torch, with batches in memory."""

import time

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lance_pipeline.images import Augment, ImageLoader, LanceSplit
from lance_pipeline.imaging.channels import ChannelSums
from lance_pipeline.training.learner import decayed_and_spared
from lance_pipeline.training.model import build_network
from lance_pipeline.training.recipe import Recipe

Batches = list[tuple[torch.Tensor, torch.Tensor]]


def train_bare(train: LanceSplit, val: LanceSplit, recipe: Recipe, image_size: int) -> tuple[list[float], list[float]]:
    """The same steps as ``fit_network`` with the default recipe; all batches are prepared before the clock starts.

    Returns:
        Seconds of each epoch, validation included, and validation losses.
    """
    recipe = recipe.resolved("cpu", image_size, len(train))
    numbers = range(recipe.epochs_for(len(train)))
    epochs = [batches_in_memory(train, train, recipe, image_size, epoch) for epoch in numbers]
    evaluation_model = batches_in_memory(val, train, recipe, image_size, None)
    torch.manual_seed(recipe.seed)
    model = build_network("resnet34", len(train.classes), recipe.stem).to(memory_format=torch.channels_last)
    decayed, spared = decayed_and_spared(model)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=recipe.peak_learning_rate, momentum=recipe.momentum, fused=True)
    steps = sum(map(len, epochs))
    schedule = OneCycleLR(optimizer, max_lr=recipe.peak_learning_rate, total_steps=steps, cycle_momentum=False)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.averaging), use_buffers=True)
    criterion = nn.CrossEntropyLoss(reduction="sum", label_smoothing=recipe.label_smoothing)
    durations: list[float] = []
    losses: list[float] = []
    for batches in epochs:
        began = time.monotonic()
        model.train()
        for images, labels in batches:
            optimizer.zero_grad()
            loss = criterion(model(images), labels) / len(images)
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
        losses.append(_validated(average.module, evaluation_model))
        durations.append(time.monotonic() - began)
    return durations, losses


@torch.inference_mode()
def _validated(model: nn.Module, batches: Batches) -> float:
    """The mean validation loss."""
    model.eval()
    total = sum(
        nn.functional.cross_entropy(model(images), labels, reduction="sum").item() for images, labels in batches
    )
    return total / sum(len(labels) for _, labels in batches)


def batches_in_memory(split: LanceSplit, train: LanceSplit, recipe: Recipe, size: int, epoch: int | None) -> Batches:
    """The batches of an epoch, shuffled, augmented and normalised as in training; None takes all rows."""
    sums = ChannelSums.model_validate(train.facts["channels"])
    loader = ImageLoader(
        split.uri,
        version=split.version,
        batch_size=recipe.images_per_batch,
        image_size=size,
        training=epoch is not None,
        seed=recipe.seed,
        augment=Augment(recipe.flip, recipe.padding_for(size)),
        normalize=(sums.mean(), sums.std()),
        fit=recipe.fit,
        cache=None,
        classes=train.classes,
    )
    loader.set_epoch(epoch or 0)
    # The loader reuses its memory.
    return [(images.clone(), labels.clone()) for images, labels in loader]
