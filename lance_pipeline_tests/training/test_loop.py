import math

import pytest
import torch
from torch import nn

from lance_pipeline.errors import InputError
from lance_pipeline.images import Augment, ImageLoader, LanceSplit
from lance_pipeline.training.callbacks import TrainingCallbacks
from lance_pipeline.training.device import choose_device
from lance_pipeline.training.history import Epoch
from lance_pipeline.training.learner import decayed_and_spared
from lance_pipeline.training.loop import train
from lance_pipeline.training.model import build_network
from lance_pipeline.training.recipe import Recipe
from lance_pipeline.training.scores import Scores, evaluate
from lance_pipeline_tests.image_folders import ingest_folder, write_image_folder

SIZE = 8
CPU = choose_device("cpu")
NORMALIZATION = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def colour_model(seed: int = 0, classes: int = 2) -> nn.Module:
    """Classifies images by their mean colour, which is how the test images' classes differ."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))


def recipe(**fields) -> Recipe:
    settings = {"epochs": 4, "batch_size": 4, "learning_rate": 0.05, "schedule": "constant", "weight_decay": 0.0}
    return Recipe.model_validate(settings | {"label_smoothing": 0.0} | fields)


def loader(split: LanceSplit, training: bool, batch_size: int = 4, size: int = SIZE, **more) -> ImageLoader:
    options = {"batch_size": batch_size, "image_size": size, "training": training, "normalize": NORMALIZATION}
    return ImageLoader(split.uri, **options, **more)


def run(splits, settings: Recipe, model: nn.Module | None = None, size: int = SIZE, **callbacks):
    more = {"seed": settings.seed, "augment": Augment(settings.flip, settings.padding_for(size))}
    training, validation = (
        loader(splits[s], s == "train", settings.images_per_batch, size, **more) for s in ("train", "val")
    )
    return train(model or colour_model(), training, validation, settings, CPU, callbacks=TrainingCallbacks(**callbacks))


def test_it_learns(splits):
    history = run(splits, recipe(epochs=8)).history
    assert history[-1].train_loss < history[0].train_loss / 2
    assert history[-1].val_loss < history[0].val_loss / 2
    assert history[-1].val_accuracy == 1.0


def test_history_and_callbacks(splits):
    epochs, steps = [], []
    trained = run(splits, recipe(epochs=3), on_epoch=epochs.append, on_step=steps.append)
    assert trained.history == epochs
    assert [(epoch.number, epoch.of) for epoch in epochs] == [(1, 3), (2, 3), (3, 3)]
    assert [(step.epoch, step.batch, step.batches) for step in steps] == [
        (epoch, batch, 4) for epoch in (1, 2, 3) for batch in (1, 2, 3, 4)
    ]
    assert all(step.loss.shape == () and math.isfinite(step.loss.item()) for step in steps)
    assert epochs[-1].seconds_left == 0
    assert min(epoch.images_per_second for epoch in epochs) > 0
    for epoch in epochs:
        losses = [step.loss.item() for step in steps if step.epoch == epoch.number]
        assert epoch.train_loss == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_an_epoch_may_end_after_some_batches(splits):
    steps = []
    trained = run(splits, recipe(epochs=2, batches_per_epoch=3), on_step=steps.append)
    assert [step.batch for step in steps] == [1, 2, 3, 1, 2, 3]
    assert len(trained.history) == 2
    steps.clear()
    run(splits, recipe(epochs=1, batches_per_epoch=99), on_step=steps.append)
    assert [(step.batch, step.batches) for step in steps] == [(n, 4) for n in (1, 2, 3, 4)]


def test_the_best_epoch_is_kept_and_not_the_last(contradicting):
    model = colour_model()
    trained = run(contradicting, recipe(epochs=5, averaging=0.0), model)
    history = trained.history
    assert trained.best == max(history, key=lambda epoch: (epoch.val_accuracy, -epoch.val_loss))
    assert trained.best.number < 5
    assert history[-1].val_loss > trained.best.val_loss

    val = loader(contradicting["val"], training=False)

    def seen(epoch: Epoch) -> Scores:
        return Scores(epoch.val_loss, epoch.val_accuracy, epoch.val_macro_f1)

    assert evaluate(model, val, CPU) == seen(history[-1])
    model.load_state_dict(trained.state)
    assert evaluate(model, val, CPU) == seen(trained.best)


def test_evaluate_weighs_images_and_not_batches(splits):
    model = colour_model()
    results = [evaluate(model, loader(splits["train"], training=False, batch_size=size), CPU) for size in (16, 7, 5)]
    assert [one.accuracy for one in results] == [results[0].accuracy] * 3
    assert [one.loss for one in results] == pytest.approx([results[0].loss] * 3, rel=1e-5)


def test_evaluate_computes_cross_entropy_and_accuracy(splits):
    model = colour_model()
    val = loader(splits["val"], training=False, batch_size=3)
    validation = evaluate(model, val, CPU)
    images = torch.cat([images for images, _ in val])
    labels = torch.cat([labels for _, labels in val])
    with torch.inference_mode():
        chances = model(images).softmax(dim=1)
    assert validation.loss == pytest.approx(-chances[range(8), labels].log().mean().item(), rel=1e-4)
    assert validation.accuracy == (chances.argmax(dim=1) == labels).float().mean().item()


def test_decay_spares_norms_and_biases():
    model = build_network("resnet34", 3, "small")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = ([names[id(parameter)] for parameter in group] for group in decayed_and_spared(model))
    assert sorted(decayed + spared) == sorted(names.values())
    assert {name for name in names.values() if "conv" in name} | {"fc.weight"} <= set(decayed)
    norms = {
        f"{name}.{kind}"
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for kind in ("weight", "bias")
    }
    assert set(spared) == norms | {"fc.bias"}


def test_one_step_decays_the_weights_by_the_penalty(splits):
    start = {key: value.clone() for key, value in colour_model().state_dict().items()}
    settings = {"epochs": 1, "batch_size": 16, "learning_rate": 0.5}
    free = run(splits, recipe(**settings)).state
    decayed = run(splits, recipe(**settings, weight_decay=0.1)).state
    torch.testing.assert_close(free["2.weight"] - decayed["2.weight"], 0.5 * 0.1 * start["2.weight"])
    assert torch.equal(free["2.bias"], decayed["2.bias"])


def test_constant_schedule(splits):
    rates = [epoch.learning_rate for epoch in run(splits, recipe(epochs=3, learning_rate=0.02)).history]
    assert rates == [0.02] * 3


def test_one_cycle_warms_up_and_anneals(splits):
    settings = recipe(epochs=6, learning_rate=0.1, schedule="one_cycle")
    rates = [epoch.learning_rate for epoch in run(splits, settings).history]
    peak = rates.index(max(rates))
    assert 0 < peak < 5
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[0] == pytest.approx(0.1 / 25)
    assert max(rates) <= 0.1


@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
def test_momentum_is_the_recipes_throughout(splits, schedule, monkeypatch):
    seen = set()

    class Watched(torch.optim.SGD):
        def step(self, *args, **kwargs):
            seen.update(group["momentum"] for group in self.param_groups)
            return super().step(*args, **kwargs)

    monkeypatch.setattr("lance_pipeline.training.learner.SGD", Watched)
    run(splits, recipe(schedule=schedule, momentum=0.8))
    assert seen == {0.8}


def test_loss_that_is_no_longer_finite_stops_the_training(splits):
    with pytest.raises(InputError, match=r"epoch \d.*`recipe.learning_rate`") as error:
        run(splits, recipe(learning_rate=1e38))
    # The message names the batch's files.
    assert len(error.value.details) == 4
    assert set(error.value.details) <= set(splits["train"].to_pandas()["path"])


def test_training_ends_when_it_gets_no_better(contradicting):
    history = run(contradicting, recipe(epochs=9, patience=2, best_by="loss")).history
    best = min(history, key=lambda epoch: epoch.val_loss)
    assert len(history) == best.number + 2 < 9


@pytest.mark.parametrize("epochs", [1, 2])
def test_one_cycle_of_a_single_batch(splits, epochs):
    settings = recipe(epochs=epochs, batch_size=16, schedule="one_cycle")
    assert len(run(splits, settings).history) == epochs


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(splits):
    first, second = (run(splits, recipe(seed=3, crop_padding=2)).state for _ in range(2))
    other = run(splits, recipe(seed=4, crop_padding=2)).state
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["2.weight"], other["2.weight"])


def test_cudnn_is_deterministic_while_a_training_runs_and_as_it_was_before_afterwards(splits, monkeypatch):
    cudnn, seen = torch.backends.cudnn, set()
    monkeypatch.setattr(cudnn, "benchmark", True)
    run(splits, recipe(epochs=1), on_step=lambda step: seen.add((cudnn.deterministic, cudnn.benchmark)))
    assert seen == {(True, False)}
    assert (cudnn.deterministic, cudnn.benchmark) == (False, True)


def test_label_smoothing_raises_the_loss_of_sure_answers(splits):
    plain = run(splits, recipe(epochs=8)).history[-1].train_loss
    assert run(splits, recipe(epochs=8, label_smoothing=0.3)).history[-1].train_loss > plain


def test_a_last_batch_of_one_image_is_left_out(tmp_path):
    root = write_image_folder(tmp_path / "root", {s: {"cat": 3, "dog": 2} for s in ("train", "val")})
    splits = {split: LanceSplit(uri) for split, uri in ingest_folder(root, tmp_path / "lance").items()}
    model = build_network("resnet34", 2, "imagenet")
    # At 32 pixels, batch norm gets only one value from a single image.
    with pytest.raises(ValueError, match="more than 1 value"):
        model.train()(torch.zeros(1, 3, 32, 32))
    steps = []
    settings = recipe(epochs=4, schedule="one_cycle")
    trained = run(splits, settings, model, 32, on_step=steps.append)
    assert [(step.batch, step.batches) for step in steps] == [(1, 1)] * 4
    assert math.isfinite(trained.best.train_loss)
    assert trained.best.val_accuracy in {0.0, 0.2, 0.4, 0.6, 0.8, 1.0}
    # The schedule ends with the steps that are really made.
    assert trained.history[-1].learning_rate < settings.peak_learning_rate / 1000


def test_too_few_images_to_train_on(tmp_path):
    root = write_image_folder(tmp_path / "root", {"val": {"cat": 1, "dog": 1}, "train": {"cat": 1, "dog": 1}})
    uris = ingest_folder(root, tmp_path / "lance")
    train_split = LanceSplit(uris["train"])
    train_split.dataset.delete("label = 'cat'")
    with pytest.raises(InputError, match=r"train\.lance has 1 images; training needs at least 2"):
        run({"train": LanceSplit(uris["train"]), "val": LanceSplit(uris["val"])}, recipe())
