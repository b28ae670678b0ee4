"""Reversible conversion of arbitrary file names to UTF-8 text."""

import os
import re
from urllib.parse import unquote_to_bytes


def escape_name(name: bytes) -> str:
    r"""The name as text: ``%`` becomes ``%25`` and each byte that is not UTF-8 becomes ``%XX``.

    No Unicode normalisation: two names that differ in bytes stay different.

    >>> escape_name(b"50% caf\xc3\xa9.png"), escape_name(b"caf\xe9.png")
    ('50%25 café.png', 'caf%E9.png')
    """
    text = name.replace(b"%", b"%25").decode("utf-8", "surrogateescape")
    if text.isascii():
        return text
    return re.sub("[\udc80-\udcff]", lambda m: f"%{ord(m.group()) - 0xDC00:02X}", text)


def escape_names(names: list[str]) -> list[str]:
    """Apply :func:`escape_name` to names as returned by ``os``, all at once: no name contains NUL."""
    return escape_name(os.fsencode("\0".join(names))).split("\0") if names else []


def unescape_name(name: str) -> bytes:
    """The bytes that were passed to :func:`escape_name`."""
    return unquote_to_bytes(name)
