"""Damage anywhere in sealed content is detected."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_pipeline.errors import DamagedError, InputError
from lance_pipeline.storage.sealed import SealingWriter, file_is_intact, from_json, sealed, to_json, unsealed

FIELDS = {"classes": ["dög", "cat"], "loss": 0.1, "rows": 2**60, "digest_of": None, "nested": {"a": [1.5e-300, True]}}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(
    st.dictionaries(st.text(st.characters(codec="utf-8")).filter(lambda key: key not in ("digest", "format")), VALUES)
)
def test_any_document_is_read_back_unchanged(fields):
    assert from_json(to_json(fields), "x.json") == (fields, True)


def test_a_document_is_readable_json():
    document = to_json(FIELDS)
    assert json.loads(document).items() >= FIELDS.items()
    assert '\n  "classes": [\n    "dög",' in document.decode()


def test_no_flipped_bit_changes_the_content_of_a_document():
    document = to_json(FIELDS)
    read = [_read(flipped(document, bit)) for bit in range(8 * len(document))]
    # A flip that replaces white space by other white space is harmless.
    assert all(one is None or one == (FIELDS, True) for one in read)
    assert read.count(None) > 0.9 * len(read)


def _read(document: bytes) -> object:
    try:
        return from_json(document, "x.json")
    except DamagedError:
        return None


@pytest.mark.parametrize("cut", [0, 1, 20, -3, -90])
def test_a_truncated_document_is_damaged(cut):
    with pytest.raises(DamagedError, match=r"x\.json"):
        from_json(to_json(FIELDS)[:cut], "x.json")


def test_a_document_of_an_earlier_version_is_read_unverified():
    assert from_json(json.dumps(FIELDS).encode(), "x.json") == (FIELDS, False)


def test_a_later_format_is_refused_and_additional_fields_are_accepted(monkeypatch):
    assert from_json(to_json(FIELDS | {"new": 1}), "x.json").fields["new"] == 1
    monkeypatch.setattr("lance_pipeline.storage.sealed.FORMAT", 2)
    document = to_json(FIELDS)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"x\.json") as caught:
        from_json(document, "x.json")
    assert not isinstance(caught.value, DamagedError)


@pytest.mark.parametrize("document", [b"[]", b"7", b"\x00" * 40, b"\xff\xfe{}"])
def test_other_files_are_not_documents(document):
    with pytest.raises(DamagedError):
        from_json(document, "x.json")


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=300), max_size=5), st.data())
def test_damage_to_a_sealed_file_is_detected(tmp_path_factory, parts, data):
    path = tmp_path_factory.mktemp("sealed") / "file"
    with path.open("wb") as file:
        writer = SealingWriter(file)
        for part in parts:
            writer.write(part)
        writer.seal()
    whole = path.read_bytes()
    assert whole == sealed(b"".join(parts))
    assert file_is_intact(path)
    assert unsealed(whole) == (b"".join(parts), True)
    damaged = data.draw(
        st.integers(0, 8 * len(whole) - 1).map(lambda bit: flipped(whole, bit))
        | st.integers(0, len(whole) - 1).map(lambda length: whole[:length])
        | st.just(bytes(len(whole)))
    )
    path.write_bytes(damaged)
    # None if the seal itself is damaged.
    assert not file_is_intact(path)
    assert not unsealed(damaged)[1]


def test_a_file_without_a_seal_is_returned_unchanged():
    assert unsealed(b"ARROW1") == (b"ARROW1", None)
    assert io.BytesIO(unsealed(b"x" * 500)[0]).read() == b"x" * 500
