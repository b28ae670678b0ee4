"""Displaying text from outside: names of files, classes and archive members, addresses, server responses.

Stored data keep such text unchanged; only what people see passes through here. Each function is one-to-one: two
different texts are never shown as the same one.
"""

import hashlib
import re

_ESCAPE = re.compile(r"\\u\{([0-9a-f]{1,6})\}")
# Zero-width characters and lookalikes of spaces that Python considers printable: fillers, variation selectors. A
# backslash is escaped only where it would look like an escape; others are part of a name or come from ``repr``.
_HIDDEN = re.compile(
    r"\\(?=u\{)|[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# Characters that start a formula in a spreadsheet, in half and full width, and our own escape character.
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20'")
# Replaces the middle of a long text. A text that contains it is treated as long, or it could pass for a shortened one.
_CUT = "…["
_UNITS = ("B", "kB", "MB", "GB", "TB")


def printable(text: str) -> str:
    r"""The text on one line, without anything that a terminal, log or page would interpret or hide.

    Control characters (including line breaks and escape codes), zero-width characters, lookalikes of spaces, characters
    that change the writing direction and bytes that are not UTF-8 become ``\u{1b}`` and the like. Other letters stay.
    """
    if text.isprintable() and not _HIDDEN.search(text):
        return text
    text = _HIDDEN.sub(lambda match: _code(match.group()), text)
    return "".join(letter if letter.isprintable() else _code(letter) for letter in text)


def shortened(text: str, limit: int = 300) -> str:
    """The text or, if it would take more than about ``limit`` characters when shown, its ends, length and digest.

    The result is not escaped; ``InputError`` escapes its message itself.
    """
    sample = text[:limit]
    room = limit * len(sample) // max(len(printable(sample)), 1)
    if len(text) <= room and _CUT not in text:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    half = room // 2
    return f"{text[:half]}{_CUT}{len(text):,} characters, SHA-256 {digest}…]…{text[len(text) - half :]}"


def markdown_code(text: str) -> str:
    """The text as a Markdown code span, where links, pictures and HTML have no effect."""
    shown = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    # The spaces, which Markdown strips, separate a backtick at either end from the fence.
    return f"{fence} {shown} {fence}" if fence != "`" else f"`{shown}`"


def count(number: int) -> str:
    """An integer with thousands separators.

    >>> count(1257)
    '1,257'
    """
    return f"{number:,}"


def percent(share: float) -> str:
    """A fraction in percent; only 0 and 1 themselves are shown as ``0 %`` and ``100 %``.

    >>> percent(0.0957), percent(0.99999), percent(1)
    ('9.6 %', '99.999 %', '100.0 %')
    """
    for digits in (1, 2, 3):
        shown = f"{100 * share:.{digits}f}"
        if float(shown) not in (0, 100) or share in (0, 1):
            return f"{shown} %"
    return "> 99.999 %" if share > 0.5 else "< 0.001 %"


def size(bytes_: int) -> str:
    """A number of bytes in decimal units.

    >>> size(13_300_000), size(990)
    ('13.3 MB', '990 B')
    """
    amount, unit = float(bytes_), 0
    while amount >= 1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.0f} {_UNITS[unit]}" if unit < 2 or amount >= 100 else f"{amount:.1f} {_UNITS[unit]}"


def csv_cell(text: str) -> str:
    """The text as a CSV cell that no spreadsheet interprets as a formula or as several cells.

    Like :func:`printable`, but also escapes semicolons, which separate cells in some locales, and puts an apostrophe
    before anything that looks like the start of a formula. :func:`from_csv_cell` reverses it.
    """
    shown = printable(text).replace(";", r"\u{3b}")
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def from_csv_cell(cell: str) -> str:
    """The text that was passed to :func:`csv_cell`."""
    return _ESCAPE.sub(lambda match: chr(int(match.group(1), 16)), cell.removeprefix("'"))


def _code(letter: str) -> str:
    return f"\\u{{{ord(letter):x}}}"
