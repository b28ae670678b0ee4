"""A training stopped at any moment and resumed gives exactly the result of an uninterrupted one."""

import json
import math
import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from lance_pipeline.errors import InputError, Stopped
from lance_pipeline.images import LanceSplit
from lance_pipeline.training import checkpoint
from lance_pipeline.training.callbacks import StepProgress, TrainingCallbacks
from lance_pipeline.training.checkpoint import Checkpoints, Snapshot, differences, exclusive, read_checkpoint
from lance_pipeline.training.device import Device, choose_device
from lance_pipeline.training.fit import fit_network
from lance_pipeline.training.history import TIMINGS, Epoch
from lance_pipeline.training.inputs import TrainingInputs
from lance_pipeline.training.loop import Trained, train
from lance_pipeline.training.recipe import Recipe
from lance_pipeline_tests.image_folders import ingest_folder, write_image_folder
from lance_pipeline_tests.training.test_loop import colour_model, loader, recipe

CPU = choose_device("cpu")
SIZE = 16
# Everything with state: momentum, schedule, average, random numbers, freezing.
RECIPE = Recipe(
    epochs=3, batch_size=4, averaging=0.9, mixup=0.2, cutmix=1.0, randaugment=5, freeze_epochs=1, gradient_clip=1.0
)


def fit(
    splits: dict[str, LanceSplit],
    folder: Path,
    recipe: Recipe = RECIPE,
    every: float = 600.0,
    callbacks: TrainingCallbacks | None = None,
    device: Device = CPU,
) -> Trained:
    """Train, resuming from the folder's checkpoint if it has the same identity."""
    inputs = TrainingInputs(splits["train"], splits["val"], recipe, SIZE)
    identity = inputs.identity()
    found = read_checkpoint(folder)
    if found is not None and found.identity == identity:
        checkpoints = Checkpoints(folder, found.training_id, identity, [], found.state, every)
    else:
        checkpoints = Checkpoints.begun(folder, identity, every=every)
    with checkpoints:
        trained, _ = fit_network(inputs, device, checkpoints=checkpoints, callbacks=callbacks or TrainingCallbacks())
    return trained


def outcome(trained: Trained) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    figures = [{key: value for key, value in vars(epoch).items() if key not in TIMINGS} for epoch in trained.history]
    return figures, trained.state


def assert_equal(trained: Trained, expected: Trained) -> None:
    figures, state = outcome(trained)
    expected_figures, expected_state = outcome(expected)
    assert figures == expected_figures
    assert [key for key in state if not torch.equal(state[key], expected_state[key])] == []


@pytest.fixture(scope="module")
def uninterrupted(splits, tmp_path_factory) -> Trained:
    return fit(splits, tmp_path_factory.mktemp("uninterrupted"))


class After:
    """Asks the training to stop after a number of batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def __call__(self) -> str | None:
        self.left -= 1
        return "enough" if self.left <= 0 else None


@pytest.mark.parametrize("batches", [1, 4, 6])
def test_a_stopped_training_goes_on_as_if_nothing_had_been(splits, uninterrupted, tmp_path, batches):
    with pytest.raises(Stopped, match="enough"):
        fit(splits, tmp_path, callbacks=TrainingCallbacks(stop=After(batches)))
    assert_equal(fit(splits, tmp_path), uninterrupted)


def test_stopping_and_resuming_name_the_same_place(splits, tmp_path):
    told: list[str] = []
    with pytest.raises(Stopped):
        fit(splits, tmp_path, callbacks=TrainingCallbacks(stop=After(6), log_line=told.append))
    fit(splits, tmp_path, callbacks=TrainingCallbacks(log_line=told.append))
    saved, resumed = (line for line in told if line.startswith(("Saved", "Resuming")))
    assert saved.startswith("Saved after epoch 1 of 3, batch 4 of 4. Stopped (enough)")
    assert resumed == "Resuming after epoch 1 of 3, batch 4 of 4"


def test_stopped_again_and_again(splits, uninterrupted, tmp_path):
    for _ in range(6):
        with pytest.raises(Stopped):
            fit(splits, tmp_path, callbacks=TrainingCallbacks(stop=After(2)))
    assert_equal(fit(splits, tmp_path), uninterrupted)


def test_stopped_in_a_validation_after_a_batch_of_one_image(tmp_path):
    root = write_image_folder(tmp_path / "root", {s: {"cat": 3, "dog": 2} for s in ("train", "val")})
    odd = {split: LanceSplit(uri) for split, uri in ingest_folder(root, tmp_path / "lance").items()}
    expected = fit(odd, tmp_path / "uninterrupted")
    # Stop after the only trainable batch and the first validation batch.
    with pytest.raises(Stopped, match="enough"):
        fit(odd, tmp_path / "stopped", callbacks=TrainingCallbacks(stop=After(2)))
    steps = []
    assert_equal(fit(odd, tmp_path / "stopped", callbacks=TrainingCallbacks(on_step=steps.append)), expected)
    assert [step.epoch for step in steps] == [2, 3]


def test_stopped_when_the_best_epoch_is_not_the_last(contradicting, tmp_path):
    settings = RECIPE.model_copy(update={"freeze_epochs": 0, "best_by": "loss"})
    expected = fit(contradicting, tmp_path / "uninterrupted", settings)
    assert expected.best.number == 1
    epochs = []
    callbacks = TrainingCallbacks(on_epoch=epochs.append, stop=lambda: "enough" if len(epochs) == 2 else None)
    with pytest.raises(Stopped, match="enough"):
        fit(contradicting, tmp_path / "stopped", settings, callbacks=callbacks)
    assert_equal(fit(contradicting, tmp_path / "stopped", settings), expected)


SCRIPT = """
import json, sys
from pathlib import Path
from lance_pipeline.images import LanceSplit
from lance_pipeline.training.callbacks import TrainingCallbacks
from lance_pipeline_tests.training.test_checkpoint import fit
uris, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
splits = {split: LanceSplit(uri) for split, uri in uris.items()}
callbacks = TrainingCallbacks(on_step=lambda step: print(step.epoch, step.batch, flush=True))
fit(splits, folder, every=0.0, callbacks=callbacks)
"""


def test_killed_at_random_steps(splits, uninterrupted, tmp_path):
    uris = json.dumps({split: one.uri for split, one in splits.items()})
    command, chance = [sys.executable, "-c", SCRIPT, uris, str(tmp_path)], random.Random(5)
    steps = 0
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdout is not None
        for _ in range(chance.randint(1, 4)):
            steps += bool(process.stdout.readline())
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert steps >= 3
    assert_equal(fit(splits, tmp_path), uninterrupted)


def test_a_finished_training_is_there_at_once(splits, uninterrupted, tmp_path):
    fit(splits, tmp_path)
    steps = []
    assert_equal(fit(splits, tmp_path, callbacks=TrainingCallbacks(on_step=steps.append)), uninterrupted)
    assert steps == []


def test_another_recipe_is_another_training(splits, tmp_path):
    before = TrainingInputs(splits["train"], splits["val"], RECIPE, SIZE).identity()
    now = TrainingInputs(splits["train"], splits["val"], RECIPE.model_copy(update={"epochs": 4}), SIZE).identity()
    assert differences(before, before) == []
    assert differences(before, now) == ["recipe.epochs was 3 and is 4"]
    assert differences({"a": 1}, {"b": {"c": 2}}) == ["a was 1 and is None", "b was None and is {'c': 2}"]


def test_another_network_is_another_training_and_the_default_is_none(splits):
    before = TrainingInputs(splits["train"], splits["val"], RECIPE, SIZE).identity()
    # The identity from before other networks could be chosen must keep its keys.
    assert set(before) == {"code", "train", "val", "recipe", "image_size", "weights"}
    now = TrainingInputs(splits["train"], splits["val"], RECIPE, SIZE, "resnet18").identity()
    assert differences(before, now) == ["model was resnet34 and is resnet18"]
    assert differences(now, before) == ["model was resnet18 and is resnet34"]


def test_another_weights_file_of_the_same_name_is_another_training(splits, tmp_path):
    weights = tmp_path / "weights.pth"
    recipe = RECIPE.model_copy(update={"weights": str(weights)})
    identities = []
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        identities.append(TrainingInputs(splits["train"], splits["val"], recipe, SIZE).identity())
    assert [difference.split()[0] for difference in differences(*identities)] == ["weights"]


def test_a_checkpoint_is_saved_when_its_time_has_come(splits, tmp_path):
    saved = []
    inputs = TrainingInputs(splits["train"], splits["val"], RECIPE, SIZE)
    with Checkpoints.begun(tmp_path, inputs.identity(), every=0.0, on_saved=saved.append) as checkpoints:
        fit_network(inputs, CPU, checkpoints=checkpoints)
    # One save for each batch and one for each epoch.
    assert len(saved) == 3 * 4 + 3
    assert [len(state["history"]) for state in saved[4::5]] == [1, 2, 3]


def test_weights_that_are_no_longer_finite_are_not_saved(splits, tmp_path):
    model = colour_model()

    def spoil(step: StepProgress) -> None:
        if (step.epoch, step.batch) == (2, 3):
            torch.nn.init.constant_(next(model.parameters()), math.nan)

    train_loader, val_loader = (loader(splits[split], split == "train") for split in ("train", "val"))
    with (
        pytest.raises(InputError, match=r"weights .*epoch 2, batch 3 of 4") as error,
        Checkpoints.begun(tmp_path, {}, every=0.0) as checkpoints,
    ):
        train(
            model,
            train_loader,
            val_loader,
            recipe(),
            CPU,
            checkpoints=checkpoints,
            callbacks=TrainingCallbacks(on_step=spoil),
        )
    assert len(error.value.details) == 4
    assert set(error.value.details) <= set(splits["train"].to_pandas()["path"])
    found = read_checkpoint(tmp_path)
    assert found is not None
    assert found.state is not None
    assert (len(found.state["history"]), len(found.state["partial"]["images"])) == (1, 2)
    kept = [*found.state["learner"]["model"].values(), *found.state["best"].values()]
    assert all(torch.isfinite(value).all() for value in kept)


def test_a_validation_loss_that_is_not_finite_ends_the_training(splits, tmp_path):
    # One batch per epoch and a growing learning rate: its steps give weights, and losses of the next batch, that are
    # still finite, while the sum over the validation split is not.
    settings = recipe(epochs=8, batch_size=16, schedule="one_cycle", learning_rate=1e38, averaging=0.0)
    train_loader, val_loader = (loader(splits[split], split == "train", 16) for split in ("train", "val"))
    epochs: list[Epoch] = []
    with (
        pytest.raises(InputError, match=r"validation loss .*epoch \d") as error,
        Checkpoints.begun(tmp_path, {}) as checkpoints,
    ):
        train(
            colour_model(),
            train_loader,
            val_loader,
            settings,
            CPU,
            checkpoints=checkpoints,
            callbacks=TrainingCallbacks(on_epoch=epochs.append),
        )
    assert epochs
    assert f"epoch {len(epochs) + 1}" in str(error.value)
    assert "1e+38" in str(error.value)
    found = read_checkpoint(tmp_path)
    assert found is not None
    assert found.state is not None
    assert found.state["history"] == [vars(epoch) for epoch in epochs]
    assert all(math.isfinite(epoch.val_loss) for epoch in epochs)
    kept = [*found.state["learner"]["model"].values(), *found.state["best"].values()]
    assert all(torch.isfinite(value).all() for value in kept)


def flip(data: bytes, place: float) -> bytes:
    changed = bytearray(data)
    changed[int(place * (len(data) - 1))] ^= 1 << len(data) % 8
    return bytes(changed)


DAMAGES = {
    "empty": lambda data: b"",
    "zero": lambda data: bytes(len(data)),
    "cut": lambda data: data[: len(data) * 2 // 3],
    "without its seal": lambda data: data[:-32],
    "not ours": lambda data: b"no checkpoint",
    "code": lambda data: b"\x80\x04cos\nsystem\n(S'true'\ntR.",
} | {f"flip {place}": partial(flip, place=place / 29) for place in range(30)}


@pytest.fixture
def two_checkpoints(tmp_path) -> Path:
    """A folder with the latest checkpoint of a training and the previous one."""
    with Checkpoints.begun(tmp_path, {"code": "1"}) as checkpoints:
        for number in (1, 2):
            checkpoints.save({"number": number, "weights": torch.full((2000,), float(number))})
            checkpoints.wait()
    return tmp_path


@pytest.mark.parametrize("damage", DAMAGES)
def test_in_place_of_a_damaged_checkpoint_the_one_before_it_is_used(two_checkpoints, damage, caplog):
    path = two_checkpoints / "checkpoint.pt"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    found = read_checkpoint(two_checkpoints)
    assert found is not None
    assert found.state is not None
    assert torch.equal(found.state["weights"], torch.full((2000,), 1.0))
    assert f"{path} is damaged" in caplog.text
    assert f"{two_checkpoints / 'previous.pt'}, is used" in caplog.text
    caplog.clear()
    # From now on the previous checkpoint counts as the latest.
    assert read_checkpoint(two_checkpoints) is not None
    with Checkpoints(two_checkpoints, found.training_id, {"code": "1"}) as checkpoints:
        checkpoints.save({"number": 3})
    assert caplog.text == ""
    path.unlink()
    again = read_checkpoint(two_checkpoints)
    assert again is not None
    assert again.state is not None
    assert again.state["number"] == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_training_whose_checkpoints_are_all_damaged_begins_again(two_checkpoints, damage, caplog):
    for path in two_checkpoints.iterdir():
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert read_checkpoint(two_checkpoints) is None
    assert "None is left" in caplog.text
    Checkpoints.begun(two_checkpoints, {"code": "2"})
    found = read_checkpoint(two_checkpoints)
    assert found is not None
    assert found.identity == {"code": "2"}


def test_a_checkpoint_that_the_disk_gives_back_otherwise_does_not_replace_the_one_before(two_checkpoints, monkeypatch):
    class Forgetful(checkpoint.SealingWriter):
        def write(self, data) -> int:
            return super().write(data) if len(data) < 1000 else self._file.write(bytes(data)) or len(data)

    before = (two_checkpoints / "checkpoint.pt").read_bytes()
    monkeypatch.setattr(checkpoint, "SealingWriter", Forgetful)
    with Checkpoints(two_checkpoints, "", {}) as checkpoints:
        checkpoints.save({"weights": torch.zeros(2000)})
        with pytest.raises(InputError, match="not what was written to it"):
            checkpoints.wait()
    assert (two_checkpoints / "checkpoint.pt").read_bytes() == before


def test_a_checkpoint_that_begins_leaves_none_of_another_training(two_checkpoints):
    Checkpoints.begun(two_checkpoints, {})
    assert os.listdir(two_checkpoints) == ["checkpoint.pt"]


def test_a_checkpoint_that_may_not_be_read_is_kept(two_checkpoints):
    # A folder, because not even root can read it as a file.
    (two_checkpoints / "checkpoint.pt").unlink()
    (two_checkpoints / "checkpoint.pt").mkdir()
    with pytest.raises(InputError, match=r"checkpoint\.pt.*`fresh: true`"):
        read_checkpoint(two_checkpoints)
    assert (two_checkpoints / "checkpoint.pt").exists()


def test_a_checkpoint_of_another_version_is_no_error(tmp_path):
    torch.save(
        {"training_id": "one", "identity": {"code": "1"}, "notes": {}, "state": None}, tmp_path / "checkpoint.pt"
    )
    found = read_checkpoint(tmp_path)
    assert found is not None
    assert (found.training_id, found.identity, found.state) == ("one", None, None)


def test_a_snapshot_does_not_change_with_the_training():
    weights = torch.ones(3)
    snapshot = Snapshot()
    taken = snapshot.of({"a": weights, "b": [weights.detach(), 2], "first": weights[:1]})
    again = snapshot.of(weights)
    weights += 1
    assert torch.equal(taken["a"], torch.ones(3))
    assert torch.equal(taken["first"], torch.ones(1))
    assert taken["b"][0] is taken["a"] is again


def test_one_training_at_a_time_in_a_folder(tmp_path):
    waited: list[str] = []
    with (
        exclusive(tmp_path, "flowers/resnet34", "1a2b3c4d-5e6f", on_wait=waited.append),
        pytest.raises(Stopped, match="no patience"),
        exclusive(tmp_path, "flowers/resnet34", on_wait=waited.append, stop=lambda: "no patience"),
    ):
        raise AssertionError("two hold it")
    (text,) = waited
    holder = f"flowers/resnet34 (run 1a2b3c4d, process {os.getpid()}, since "
    assert str(tmp_path) in text
    assert holder in text
    with exclusive(tmp_path, "flowers/resnet34", on_wait=waited.append):
        assert len(waited) == 1
