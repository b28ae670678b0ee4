import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_pipeline.sources.file_names import escape_name, unescape_name

# Bytes that are likely to be misinterpreted: percent signs, hexadecimal digits, parts of UTF-8 sequences.
_TRICKY = st.lists(st.sampled_from([b"%", b"2", b"5", b"F", b"f", b"\xff", b"\xc3", b"\xa9", b"\n"])).map(b"".join)
_NAMES = st.one_of(st.binary(max_size=30), _TRICKY, st.text(max_size=20).map(lambda t: t.encode("utf-8", "replace")))


@settings(max_examples=200, deadline=None)
@given(_NAMES)
def test_unescape_restores_the_bytes(name):
    escaped = escape_name(name)
    assert unescape_name(escaped) == name
    escaped.encode("utf-8")


@settings(max_examples=200, deadline=None)
@given(_NAMES, _NAMES)
def test_different_names_stay_different(one, other):
    assert (escape_name(one) == escape_name(other)) == (one == other)


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        (b"plain name.png", "plain name.png"),
        ("Gänseblümchen.png".encode(), "Gänseblümchen.png"),
        (b"100%.png", "100%25.png"),
        (b"%FF.png", "%25FF.png"),
        (b"\xff.png", "%FF.png"),
        (b"line\nbreak", "line\nbreak"),
    ],
)
def test_names_are_escaped_only_where_necessary(name, escaped):
    assert escape_name(name) == escaped


def test_no_unicode_normalisation():
    composed, decomposed = "é".encode(), "e\u0301".encode()
    assert escape_name(composed) != escape_name(decomposed)


def test_an_unescaped_name_opens_the_file(tmp_path):
    name = b"odd\xff 100%\n.bin"
    with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
        file.write(b"content")
    with open(os.path.join(os.fsencode(tmp_path), unescape_name(escape_name(name))), "rb") as file:
        assert file.read() == b"content"
