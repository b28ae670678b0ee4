"""Addresses that contain secrets."""

import traceback

import pytest
from pydantic import BaseModel

from lance_pipeline.errors import InputError
from lance_pipeline.storage import redaction
from lance_pipeline.storage.addresses import IN_FULL, Address
from lance_pipeline.storage.redacted_errors import redacted, without_secrets

FULL = "https://me:letmein@host:8443/x.zip?X-Amz-Signature=abcdef&part=1#fragment"
SHOWN = "https://host:8443/x.zip?X-Amz-Signature=***&part=1#***"


@pytest.fixture(autouse=True)
def no_registered_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolates the secrets that each test registers."""
    monkeypatch.setattr(redaction, "_known", set())


class Model(BaseModel):
    url: Address


def test_only_an_explicit_call_returns_the_full_text():
    address = Address(FULL)
    assert address.full() == FULL
    for shown in (str(address), f"{address}", f"{address!s}", "{}".format(address), "%s" % address, format(address)):  # noqa: UP031, UP032
        assert shown == SHOWN
    assert repr(address) == repr(SHOWN)
    assert "letmein" not in str(vars(type(address))) + repr([address]) + str({"a": address})


def test_a_model_is_serialized_without_secrets():
    model = Model.model_validate({"url": FULL})
    for text in (repr(model), str(model.model_dump()), model.model_dump_json()):
        assert SHOWN in text
        assert "letmein" not in text
    assert Model.model_json_schema()["properties"]["url"]["type"] == "string"
    assert model.model_dump(context=IN_FULL) == {"url": FULL}


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("http://me:p@ss@host/x", "http://me:p%40ss@host/x"),
        ("http://me:pa ss/wo:rd@host:80/x", "http://me:pa%20ss%2Fwo:rd@host:80/x"),
        ("http://me:p%40ss@host/x", "http://me:p%40ss@host/x"),
        ("sqlite:////a/b@c/x.db", "sqlite:////a/b@c/x.db"),
        ("https://host/a@b?c=d@e", "https://host/a@b?c=d@e"),
        ("data/images.zip", "data/images.zip"),
    ],
)
def test_a_user_part_is_encoded_for_the_connection(text: str, full: str):
    assert Address(text).full() == full


def test_name_and_password_are_decoded():
    assert Address("http://m%65:p%40s s/w@host/x").user() == ("me", "p@s s/w")
    assert Address("http://m%65:p%40s s/w@host/x").without_user() == "http://host/x"
    assert Address("http://host/x").user() == ("", "")


def test_an_ambiguous_user_part_is_refused():
    with pytest.raises(InputError, match="%40") as caught:
        Address("http://me:p@ss/w0rd@127.0.0.1:5000").full()
    assert "w0rd" not in str(caught.value)


def raise_in_layers() -> None:
    try:
        raise OSError(5, "cannot read https://me:letmein@host/x?sig=abcdef")
    except OSError as error:
        try:
            raise KeyError("/x?sig=abcdef") from error
        except KeyError:
            # Its own message contains no secret.
            raise RuntimeError("failed") from ExceptionGroup("both", [ValueError("letmein"), ValueError("harmless")])


def test_no_cause_of_an_error_quotes_a_secret():
    Address("https://me:letmein@host/x")
    with pytest.raises(RuntimeError) as caught, without_secrets():
        raise_in_layers()
    text = "".join(traceback.format_exception(caught.value))
    # Without the source lines of this file, which contain the secrets.
    shown = "\n".join(line for line in text.splitlines() if "raise " not in line)
    assert "RuntimeError: failed" in shown
    assert "raise_in_layers" in text
    assert "ValueError: ***" in shown
    assert "ValueError: harmless" in shown
    assert "letmein" not in shown
    assert "abcdef" not in shown


def test_an_error_without_secrets_is_unchanged():
    error = FileNotFoundError(2, "No such file")
    with pytest.raises(FileNotFoundError) as caught, without_secrets():
        raise error
    assert caught.value is error


def test_the_copy_of_an_error_is_caught_by_its_type():
    copy = redacted(FileNotFoundError(2, "No file", "http://me:letmein@host/x"))
    assert isinstance(copy, FileNotFoundError)
    assert type(copy).__name__ == "FileNotFoundError"
    assert "letmein" not in str(copy) + repr(copy) + str(vars(copy))
    with pytest.raises(SystemExit):
        raise redacted(SystemExit("http://me:letmein@host/x"))
