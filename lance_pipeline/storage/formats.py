"""Format numbers: how files that were written by other versions of this package are read.

Everything that is written and read back carries the number of its format; what has none is of format 1. Readers ignore
fields that they do not know and take the default of a field that is missing, so a new field needs a default but no
other number. A number rises when an earlier version would misunderstand what it reads; that version then refuses it.
Caches, which anybody may delete, have the number in their names: those of another format are not looked at.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lance_pipeline.errors import DamagedError, InputError

FORMAT_KEY = "format"
FIRST_FORMAT = 1


class LaterFormatError(InputError):
    """A later version of this package has written a file in a format that this version does not know."""


def require_known_format(found: object, known: int, where: str, otherwise: str) -> int:
    """The format number of a file, once it is clear that this version can read the file.

    Args:
        found: the number in the file.
        known: the latest format that this version knows.
        where: the file, for errors.
        otherwise: what to do where this package cannot be upgraded, as the end of a sentence.

    Raises:
        LaterFormatError: the format is a later one.
        DamagedError: it is no format number.
    """
    if type(found) is not int or found < FIRST_FORMAT:
        raise DamagedError(f"{where} is damaged: its format is {found!r}, expected a number from {FIRST_FORMAT} on")
    if found > known:
        raise LaterFormatError(
            f"{where} was written by a later version of lance-pipeline, in format {found}; this version reads formats "
            f"up to {known}. Upgrade lance-pipeline, or {otherwise}."
        )
    return found


def known_fields(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values for the fields of a dataclass, without those that a later version has added."""
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in values.items() if name in names}
