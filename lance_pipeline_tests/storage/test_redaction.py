"""Redaction of secrets in texts such as people, libraries and servers write."""

import base64
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from lance_pipeline.storage import redaction
from lance_pipeline.storage.redaction import redact, remember, remember_address


@pytest.fixture(autouse=True)
def no_registered_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolates the secrets that each test registers."""
    monkeypatch.setattr(redaction, "_known", set())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://user:word@host/x", "http://host/x"),
        ("http://user:wo@rd@host:80/x?y=1", "http://host:80/x?y=1"),
        ("http://user:wo/rd@host/x", "http://host/x"),
        ("http://user:wo@rd/wo:rd@host/x", "http://host/x"),
        ("http://user:1234/5@host/x", "http://host/x"),
        ("http://user:wo?rd#wo@host/x", "http://host/x"),
        ("http://wordwordword@host/x", "http://host/x"),
        ("postgresql+psycopg2://user:p@ss@host/db", "postgresql+psycopg2://host/db"),
        ("https://host/x?token=word&page=2", "https://host/x?token=***&page=2"),
        ("https://host/x?page=2#access_token=word", "https://host/x?page=2#access_token=***"),
        ("https://host/x?%74oken=word", "https://host/x?%74oken=***"),
        ("https://host/x?X%2DAmz%2DSignature=word", "https://host/x?X%2DAmz%2DSignature=***"),
        ("https://host/x?x-goog-signature=word", "https://host/x?x-goog-signature=***"),
        ("https://host/x?SIG=wo%2Frd%3D&sv=2024", "https://host/x?SIG=***&sv=2024"),
        ("https://host/x?AWSAccessKeyId=word", "https://host/x?AWSAccessKeyId=***"),
        ("https://host/x?code=word&Key=word&PASSWORD=word", "https://host/x?code=***&Key=***&PASSWORD=***"),
        ("https://host/x?next=https%3A%2F%2Fa%3Aword%40b%2F", "https://host/x?next=https%3A%2F%2Fb%2F"),
        ("https://host/x?next=https%3A%2F%2Fb%2F%3Fsig%3Dword", "https://host/x?next=***"),
        (
            "Max retries exceeded with url: /x?token=word (Caused by",
            "Max retries exceeded with url: /x?token=*** (Caused by",
        ),
        ("[('http://a:word@b/x', 'c')]", "[('http://b/x', 'c')]"),
        ("Driver=x;Server=y;Password=word;", "Driver=x;Server=y;Password=***;"),
        ("host=x password=word dbname=y", "host=x password=*** dbname=y"),
        ("{'Authorization': 'Basic d29yZA=='}", "{'Authorization': '***'}"),
        (
            "[type=extra_forbidden, input_value={'a': 'b, c'}, input_type=x]",
            "[type=extra_forbidden, input_value=***, input_type=x]",
        ),
    ],
)
def test_a_secret_is_recognized_by_its_position(text: str, expected: str):
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/a@b/mlflow.db",
        "file:///mnt/a@b/images.zip",
        "https://host/package@1.0.zip?sequence=4",
        "s3://bucket/data@2024/train.lance",
        "http://127.0.0.1:5000/#/experiments/1/runs/5a4e?workflowType=machine_learning",
        "mail me@example.com, see https://example.com.",
        "train: version 3, 1257 rows added; key and code stay",
        "/home/me/data/lance/digits_train.lance",
    ],
)
def test_text_without_secrets_is_unchanged(text: str):
    assert redact(text) == text


def test_registered_secrets_are_found_anywhere():
    remember_address("https://me:pa ss/wo@rd@host/x?token=abcd1234")
    for form in ("pa ss/wo@rd", quote("pa ss/wo@rd", safe=""), "pa%20ss/wo%40rd", "abcd1234"):
        assert redact(f"cannot log in with {form} there") == "cannot log in with *** there"
    header = base64.b64encode(b"me:pa ss/wo@rd").decode()
    assert header not in redact(f"sent {header}")


def test_short_words_are_not_secrets():
    remember("test")
    assert redact("the test split") == "the test split"
    remember_address("postgresql://mlflow:mlflow@host/mlflow")
    assert redact("postgresql://mlflow:mlflow@host/mlflow") == "postgresql://host/mlflow"
    remember("s3cr3t")
    assert redact("s3cr3t, s3cr3ts") == "***, s3cr3ts"


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI/K7MDENG"),
        ("MLFLOW_TRACKING_TOKEN", "abcdefghij", "abcdefghij"),
        ("HTTPS_PROXY", "http://me:letmein1@proxy:3128", "letmein1"),
        ("ANY_NAME", "postgresql://me:p@ss/1@db/x", "p@ss/1"),
    ],
    # Pytest writes ids to an environment variable: they must not contain the secrets.
    ids=["key", "token", "proxy", "database"],
)
def test_secrets_in_variables_are_redacted(name: str, value: str, secret: str, monkeypatch: pytest.MonkeyPatch):
    assert secret in redact(f"<{secret}>")
    monkeypatch.setenv(name, value)
    assert redact(f"<{secret}>") == "<***>"


@pytest.mark.parametrize(("name", "value"), [("PWD", "/somewhere/else"), ("TOKENIZERS_PARALLELISM", "something")])
def test_other_variables_are_not_redacted(name: str, value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, value)
    assert redact(value) == value


# Any characters that a line and a shell can contain.
PASSWORDS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=["Cs", "Cc"]), min_size=6)


@settings(deadline=None)
@given(PASSWORDS)
@example("12/345")
@example("a b@c/d")
@example('x@y "z')
@example("***@**/")
@example("?12345")
@example("12/3?45")
def test_no_address_shows_its_password(password: str):
    # Unless it is part of the rest of the text.
    assume(password not in "http://me:@host/x ***")
    text = f"http://me:{password}@host/x"
    remember_address(text)
    assert password not in redact(f"cannot reach {text}: refused")


@settings(deadline=None)
@given(st.text())
def test_redaction_is_idempotent(text: str):
    assert redact(redact(text)) == redact(text)


@settings(deadline=None)
@example(["?", "%40", "token=", "http://", "#", "http://", "@"])
@given(st.lists(st.sampled_from(["http://", "a:b", "@", "/", "?", "token=", "%40", "%3A%2F%2F", "#", " ", "***"])))
def test_redaction_is_idempotent_for_texts_like_addresses(parts: list[str]):
    text = "".join(parts)
    assert redact(redact(text)) == redact(text)
