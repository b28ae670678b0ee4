"""Text from outside (names of files, classes and members, addresses, answers of servers) as it is shown.

The data keep such text as it is; only what people look at goes through here. Each function is one-to-one: two
different texts are never shown as the same one.
"""

import hashlib
import re

# A backslash only where it would look like an escape: most of them are a part of a name, or an escape of ``repr``.
_ESCAPE = re.compile(r"\\u\{([0-9a-f]{1,6})\}")
# Characters that take no room or look like a space, though Python calls them printable: fillers, variation selectors.
_HIDDEN = re.compile(
    r"\\(?=u\{)|[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# What a spreadsheet takes for the beginning of a formula, in half and full width; and our own mark.
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20'")
# What stands in for the middle of a long text. One that has it itself is treated as long: it could pose as another.
_CUT = "…["
_UNITS = ("B", "kB", "MB", "GB", "TB")


def printable(text: str) -> str:
    r"""The text on one line, without anything that a terminal, a log or a page would obey or hide.

    Control characters (line breaks and escape codes too), characters that turn the direction of writing, take no room
    or look like a space, and bytes that are not UTF-8 become ``\u{1b}`` and the like. All other letters stay.
    """
    if text.isprintable() and not _HIDDEN.search(text):
        return text
    text = _HIDDEN.sub(lambda match: _code(match.group()), text)
    return "".join(letter if letter.isprintable() else _code(letter) for letter in text)


def shortened(text: str, limit: int = 300) -> str:
    """The text or, if it would be shown as more than about ``limit`` characters, its ends, its length and its digest.

    It is not escaped yet: what is put into an ``InputError`` is escaped by that.
    """
    sample = text[:limit]
    room = limit * len(sample) // max(len(printable(sample)), 1)
    if len(text) <= room and _CUT not in text:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    half = room // 2
    return f"{text[:half]}{_CUT}{len(text):,} characters, SHA-256 {digest}…]…{text[len(text) - half :]}"


def markdown_code(text: str) -> str:
    """The text as a Markdown code span, in which nothing is a link, a picture or HTML."""
    shown = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    # Spaces that Markdown takes away again keep a backtick at either end apart from the fence.
    return f"{fence} {shown} {fence}" if fence != "`" else f"`{shown}`"


def count(number: int) -> str:
    """A number of things.

    >>> count(1257)
    '1,257'
    """
    return f"{number:,}"


def percent(share: float) -> str:
    """A share of 1 in percent; what is not all or nothing is never shown as ``100 %`` or ``0 %``.

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
    """The text as a CSV cell that no spreadsheet takes for a formula or for more than one cell.

    :func:`printable`, with semicolons escaped too (some countries separate cells by them), and with an apostrophe
    before what looks like the beginning of a formula. :func:`from_csv_cell` gives the text back.
    """
    shown = printable(text).replace(";", r"\u{3b}")
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def from_csv_cell(cell: str) -> str:
    """The text that :func:`csv_cell` was given."""
    return _ESCAPE.sub(lambda match: chr(int(match.group(1), 16)), cell.removeprefix("'"))


def _code(letter: str) -> str:
    return f"\\u{{{ord(letter):x}}}"
