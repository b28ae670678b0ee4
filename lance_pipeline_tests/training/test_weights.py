import hashlib
import os

import pytest
import torch
from safetensors.torch import load_file

from lance_pipeline.errors import DamagedError, InputError
from lance_pipeline.storage.sealed import to_json
from lance_pipeline.training.model import build_network
from lance_pipeline.training.weights import CARD_FILE, WEIGHTS_FILE, ModelCard, load_model, read_weights, save_model

CARD = ModelCard(
    stem="small", classes=["cat", "dög"], image_size=32, fit="crop", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_network("resnet34", 2, "small").eval()


@pytest.fixture
def saved(tmp_path, model):
    return save_model(tmp_path, model.state_dict(), CARD)


def test_the_loaded_model_is_the_saved_one(tmp_path, model, saved):
    loaded, card = load_model(tmp_path, saved)
    assert card == CARD
    assert not loaded.training
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))


def test_the_folder_holds_weights_and_card_and_nothing_else(tmp_path, model, saved):
    assert sorted(os.listdir(tmp_path)) == [CARD_FILE, WEIGHTS_FILE]
    assert hashlib.sha256((tmp_path / WEIGHTS_FILE).read_bytes()).hexdigest() == saved
    assert load_file(tmp_path / WEIGHTS_FILE).keys() == model.state_dict().keys()
    assert ModelCard.model_validate_json((tmp_path / CARD_FILE).read_bytes()) == CARD


def test_saving_again_replaces(tmp_path, saved):
    torch.manual_seed(1)
    other = build_network("resnet34", 2, "small")
    sha256 = save_model(tmp_path, other.state_dict(), CARD)
    assert sha256 != saved
    assert torch.equal(load_model(tmp_path, sha256)[0].state_dict()["fc.weight"], other.state_dict()["fc.weight"])


def test_weights_of_another_training(tmp_path, saved):
    with pytest.raises(InputError, match="SHA-256"):
        load_model(tmp_path, "0" * 64)


def test_weights_that_do_not_fit_the_card(tmp_path, saved):
    card = CARD.model_copy(update={"classes": ["ant", "cat", "dog"]})
    # The format of an earlier version.
    (tmp_path / CARD_FILE).write_text(card.model_dump_json())
    with pytest.raises(InputError, match=r"(?s)fc\.weight"):
        load_model(tmp_path, saved)


@pytest.mark.parametrize("name", [CARD_FILE, WEIGHTS_FILE])
def test_missing_file(tmp_path, saved, name):
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=name):
        load_model(tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"classes": 1}', b"\xff\xfe"])
def test_broken_card(tmp_path, saved, content):
    (tmp_path / CARD_FILE).write_bytes(content)
    with pytest.raises(DamagedError, match=r"model\.json|model in"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", [CARD_FILE, WEIGHTS_FILE])
def test_a_flipped_bit_is_noticed_without_a_record(tmp_path, saved, name):
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    for place in range(5, len(content), len(content) // 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(DamagedError, match=name):
            load_model(tmp_path)


def test_a_card_of_an_earlier_or_a_later_version_is_read(tmp_path, saved):
    (tmp_path / CARD_FILE).write_text(CARD.model_dump_json())
    assert load_model(tmp_path, saved)[1] == CARD
    (tmp_path / CARD_FILE).write_bytes(to_json(CARD.model_dump() | {"new_field": 1}))
    assert load_model(tmp_path)[1] == CARD


def test_a_card_without_a_network_is_that_of_a_resnet34(tmp_path, saved):
    fields = CARD.model_dump()
    del fields["architecture"]
    (tmp_path / CARD_FILE).write_bytes(to_json(fields))
    assert load_model(tmp_path, saved)[1] == CARD


def test_a_card_with_a_network_that_is_not_known(tmp_path, saved):
    (tmp_path / CARD_FILE).write_bytes(to_json(CARD.model_dump() | {"architecture": "resnet35"}))
    with pytest.raises(InputError, match="resnet35") as caught:
        load_model(tmp_path, saved)
    # Training again would not help, so this is not a DamagedError.
    assert not isinstance(caught.value, DamagedError)


@pytest.mark.parametrize("length", [0, 10_000])
def test_truncated_weights(tmp_path, saved, length):
    path = tmp_path / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:length])
    for loads in (load_model, read_weights):
        with pytest.raises(DamagedError, match="model"):
            loads(tmp_path)


def test_unwritable_folder(tmp_path, model):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/model.*LANCE_PIPELINE_DATA"):
        save_model(tmp_path / "file" / "model", model.state_dict(), CARD)


def test_unwritable_weights_file(tmp_path, model):
    (tmp_path / f".{WEIGHTS_FILE}.tmp").mkdir()
    with pytest.raises(InputError, match="model"):
        save_model(tmp_path, model.state_dict(), CARD)
