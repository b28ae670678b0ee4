"""Displaying text from outside."""

import csv
import io
import pickle
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_pipeline.display import count, csv_cell, from_csv_cell, markdown_code, percent, printable, shortened, size
from lance_pipeline.errors import InputError

# Arbitrary texts, and texts of characters that are likely to be mistaken for an escape, formula, fence or quote.
_TEXTS = st.one_of(
    st.text(max_size=20),
    st.text(st.sampled_from("\\u{}5c1b=+-@'`;\"\n\r\t\x1b\u202e\u200b\ufe0f\udcff a"), max_size=12),
)


def is_plain(text: str) -> bool:
    return not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in text)


@pytest.mark.parametrize(
    "name",
    [
        "dog rose",
        "Gänseblümchen",
        "日本語",
        "🐈 cat",
        "Ελληνικά",
        "עברית",
        "C:\\users\\new",
        "'quoted'",
        "100%25 \\n",
        "a_b*c",
    ],
)
def test_readable_names_are_unchanged(name):
    assert printable(name) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb", r"a\u{a}b"),
        ("\x1b[31mred", r"\u{1b}[31mred"),
        ("gnp\u202e.exe", r"gnp\u{202e}.exe"),
        ("ca\u200bt", r"ca\u{200b}t"),
        ("cat\ufe0f", r"cat\u{fe0f}"),
        ("no\xa0break", r"no\u{a0}break"),
        ("\x9b31m", r"\u{9b}31m"),
        ("\u2028", r"\u{2028}"),
        ("\udcff.png", r"\u{dcff}.png"),
        (r"\u{a}", r"\u{5c}u{a}"),
    ],
)
def test_characters_that_a_terminal_would_interpret_or_hide_are_escaped(name, shown):
    assert printable(name) == shown


@settings(max_examples=300, deadline=None)
@given(_TEXTS, _TEXTS, st.integers(0, 30))
def test_different_texts_are_shown_differently(one, other, limit):
    assert (printable(one) == printable(other)) == (one == other)
    assert is_plain(printable(one))
    assert (shortened(one, limit) == shortened(other, limit)) == (one == other)


@settings(max_examples=300, deadline=None)
@given(_TEXTS)
def test_csv_cells_restore_the_text(text):
    cell = csv_cell(text)
    assert from_csv_cell(cell) == text
    assert is_plain(cell)
    assert not cell.startswith(tuple("=+-@\uff1d\uff0b\uff0d\uff20\t\r"))


def test_a_spreadsheet_that_separates_by_semicolons_finds_no_formula():
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerow(["train", csv_cell("a\";=cmd|' /C calc'!A0")])
    cells = next(csv.reader([buffer.getvalue()], delimiter=";"))
    assert not any(cell.lstrip('"').startswith("=") for cell in cells)


@pytest.mark.parametrize("length", [10**3, 10**7])
@pytest.mark.parametrize("letter", ["n", "\x1b", "日"])
def test_long_texts_are_shortened(letter, length):
    shown = printable(shortened(letter * length, 200))
    assert len(shown) <= 250
    assert f"{length:,} characters" in shown
    assert shown != printable(shortened(letter * (length - 1) + "!", 200))


def test_a_text_cannot_pass_for_a_shortened_one():
    short = shortened("n" * 1000)
    assert shortened(short) != short
    assert shortened("n" * 260) == "n" * 260


@settings(max_examples=300, deadline=None)
@given(_TEXTS)
def test_a_code_span_contains_the_whole_text(text):
    code = markdown_code(text)
    (fence,) = re.findall("^`+", code)
    assert fence not in re.findall("`+", code[len(fence) : -len(fence)])
    assert code.endswith(fence)
    assert printable(text) in code


def test_an_error_is_one_line_unless_given_as_several():
    forged = "cat\n2026-01-01 00:00:00 - dagster - INFO - all is well"
    assert "\n" not in str(InputError(f"no folder {forged}"))
    error = InputError([f"no folder {forged}", "Make it."], [forged])
    assert str(error).splitlines()[1:] == ["Make it."]
    assert error.details == [printable(forged)]


def test_an_error_is_unchanged_by_pickling():
    error = InputError(["\x1b \\u{1b}", "second"], ["\n"])
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.details) == (str(error), error.details)


def test_the_length_of_an_error_is_bounded():
    assert len(str(InputError("x" * 10**6))) < 5000


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (count(1257), "1,257"),
        (percent(0.096), "9.6 %"),
        (percent(0), "0.0 %"),
        (percent(1), "100.0 %"),
        (percent(0.9996), "99.96 %"),
        (percent(0.0000001), "< 0.001 %"),
        (percent(1 - 1e-9), "> 99.999 %"),
        (size(0), "0 B"),
        (size(999), "999 B"),
        (size(13_300_000), "13.3 MB"),
        (size(123_400_000_000), "123 GB"),
    ],
)
def test_figures_are_formatted(shown: str, expected: str):
    assert shown == expected


@given(st.floats(0, 1))
def test_only_one_is_shown_as_100_percent_and_only_zero_as_0(share: float):
    assert (percent(share) == "100.0 %") == (share == 1)
    assert (percent(share) == "0.0 %") == (share == 0)
