"""Files of every earlier format are read as intended, and no work is repeated."""

import json
import logging
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import torch
from torchvision.models import resnet34

from lance_pipeline.errors import DamagedError
from lance_pipeline.images import LanceSplit, Limits, Watch, ingest_split
from lance_pipeline.imaging.decoding import DECODERS
from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.records import Metrics, Model, RawImages, Record, Split, Training
from lance_pipeline.orchestration.retention.models import Removal
from lance_pipeline.orchestration.runtime.resumption import checkpoints_to_use, has_checkpoint
from lance_pipeline.orchestration.trials.record import Trial
from lance_pipeline.sources.listing import files_of_split, list_split_folders, store_listing
from lance_pipeline.storage.facts import read_facts
from lance_pipeline.storage.tables import open_table
from lance_pipeline.storage.verification import verify_rows
from lance_pipeline.training.checkpoint import read_checkpoint
from lance_pipeline.training.device import choose_device
from lance_pipeline.training.inputs import TrainingInputs
from lance_pipeline.training.weights import CARD_FILE, ModelCard, load_model, read_weights, save_model
from lance_pipeline_tests.formats.write import CARD, CLASSES, ENVIRONMENT, FOLDERS, RECIPE, RUN, SIZE, tiny_training

COUNTS = {"cat": 2, "dog": 2}


@pytest.fixture(autouse=True)
def nothing_is_warned_of(caplog: pytest.LogCaptureFixture):
    yield
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING] == []


def record(asset: str, kind: type[Record]) -> Any:
    with dg.DagsterInstance.ephemeral() as instance:
        return RecordIOManager(folder="records").read(instance, dg.AssetKey(["tiny", asset]), kind, RUN)


def splits() -> dict[str, LanceSplit]:
    return {split: LanceSplit(**record(f"lance_{split}", Split).data.model_dump()) for split in FOLDERS}


def ingested(uri: str, split: str, **options: Any) -> tuple[Any, int]:
    """The report of an ingest, and the number of files it read."""
    read: list[int] = []
    watch = Watch(progress=lambda done, total: read.append(total), warning=pytest.fail)
    report = ingest_split("images", split, uri, limits=Limits(max_rejected_fraction=1), watch=watch, **options)
    return report, max(read, default=0)


def test_the_listing_is_the_one_that_was_stored(files: Path):
    raw = record("raw_images", RawImages)
    assert (raw.root, raw.folders, raw.classes) == ("images", FOLDERS, CLASSES)
    listed = list_split_folders("images", FOLDERS)
    assert store_listing(listed, raw.listing.uri) == (raw.listing.version, raw.listing.fingerprint)
    files_of_train = files_of_split(raw.listing.uri, raw.listing.version, "train", raw.listing.fingerprint)
    assert len(files_of_train) == sum(raw.counts["train"].values()) == 5


@pytest.mark.parametrize("split", FOLDERS)
def test_a_split_is_not_ingested_again(files: Path, split: str):
    stored = record(f"lance_{split}", Split)
    decoders = LanceSplit(stored.data.uri).facts["decoders"]
    report, read = ingested(stored.data.uri, split, transparency="grey")
    # Other decoders may decide differently about the rejected file.
    assert read == (0 if decoders == [DECODERS] else 1)
    assert (report.added, report.removed, report.version) == (0, 0, stored.data.version)
    assert report.rejected_version == stored.quarantine.version
    assert (report.rows, report.rejected, report.counts) == (stored.rows, stored.rejected, COUNTS)
    assert (report.fingerprint, report.channels) == (stored.data.fingerprint, stored.channels)


def test_rows_quarantine_and_facts_are_as_they_were(files: Path):
    split = splits()["train"]
    assert (split.classes, split.transparency) == (CLASSES, "grey")
    assert split.facts["counts"] == COUNTS
    assert "format" not in split.facts
    assert verify_rows(split.dataset).passed
    images = {row["path"]: row["image"] for row in split.to_table(["path", "image"]).to_pylist()}
    assert {path: Path("images/train", path).read_bytes() for path in images} == images
    (rejected,) = open_table("lance/tiny_train_rejected.lance").to_table().to_pylist()
    assert (rejected["path"], rejected["reason"]) == ("dog/bad.png", "not_an_image")


def test_what_an_interrupted_ingest_had_written_is_committed_and_not_read_again(files: Path):
    report, read = ingested("lance/waiting.lance", "val")
    written = LanceSplit("lance/tiny_val.lance").facts["decoders"]
    assert read == (0 if written == [DECODERS] else 1)
    assert (report.rows, report.added, report.fingerprint) == (4, 4, record("lance_val", Split).data.fingerprint)


def test_model_and_metrics(files: Path, tmp_path: Path):
    model, metrics = record("resnet34", Model), record("metrics_val", Metrics)
    assert (model.recipe, model.val_accuracies, model.train_accuracy) == (RECIPE, [0.75, 0.25], 0.5)
    assert (metrics.macro_f1, metrics.images, metrics.model_sha256) == (0.625, 4, model.sha256)
    assert torch.equal(read_weights(Path(model.folder), model.sha256)["fc.weight"], torch.eye(2))
    predictions = open_table(metrics.predictions.uri, metrics.predictions.version)
    assert read_facts(predictions)["fingerprint"] == metrics.predictions.fingerprint
    assert predictions.count_rows() == 4
    # The set's weights do not cover the whole network.
    sha256 = save_model(tmp_path, resnet34(num_classes=2).state_dict(), ModelCard.model_validate(CARD))
    (tmp_path / CARD_FILE).write_bytes(Path("model", CARD_FILE).read_bytes())
    network, card = load_model(tmp_path, sha256)
    assert card == ModelCard.model_validate(CARD)
    assert network(torch.zeros(1, 3, SIZE, SIZE)).shape == (1, 2)


def test_trials_and_trainings(files: Path):
    training = Training.from_json(Path("mlflow/training.json").read_bytes(), "training.json")
    assert (training.recipe, training.environments, len(training.history)) == (RECIPE, [ENVIRONMENT], 1)
    assert training.identity == _identity()
    trial = Trial.from_json(Path("mlflow/trial.txt").read_bytes(), "trial")
    assert (trial.recipe, trial.val_accuracy, trial.test_accuracy, trial.stopped_early) == (RECIPE, 0.75, None, True)
    removal = Removal.from_json(Path(f"records/tiny/resnet34/{RUN}.removing").read_bytes(), "note")
    assert removal.model == record("resnet34", Model)


def test_an_interrupted_training_resumes(files: Path):
    folder, lines = Path("checkpoints/tiny"), []
    (own,) = folder.iterdir()
    stored = read_checkpoint(own)
    assert stored is not None
    assert stored.identity == _identity()
    assert has_checkpoint(folder, _identity())
    resumed = checkpoints_to_use(
        lines.append, lambda: iter(()), folder, _identity(), choose_device("cpu"), fresh=False, every=600
    )
    assert resumed.training_id == stored.training_id
    assert lines[0].startswith(f"Resuming training {stored.training_id}")
    trained = tiny_training(splits(), resumed, log_line=lines.append)
    assert lines[-1].startswith("Resuming after epoch 2 of 2, batch 1 of ")
    assert [epoch.number for epoch in trained.history] == [1, 2]
    first = trained.history[0].outcome()
    assert first == Training.from_json(Path("mlflow/training.json").read_bytes(), "training.json").history[0]


def _identity() -> dict[str, Any]:
    """The identity of the set's training, including the version of the code that trained it."""
    stored = json.loads(Path("mlflow/training.json").read_bytes())
    two = splits()
    return TrainingInputs(two["train"], two["val"], RECIPE, SIZE).identity() | {"code": stored["code"]}


def test_a_damaged_record_is_still_known_as_one(files: Path):
    path = Path(f"records/tiny/raw_images/{RUN}.json")
    document = path.read_bytes().replace(b'"images"', b'"imagez"')
    with pytest.raises(DamagedError, match=path.name):
        RawImages.from_json(document, str(path))


def test_no_path_of_a_machine_is_in_a_set(files: Path):
    home = str(Path(__file__).parents[2]).encode()
    contents = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    assert sum(map(len, contents.values())) < 200_000
    assert [path for path, content in contents.items() if home in content or str(files).encode() in content] == []
