"""Rejected files and the reasons for rejecting them."""

from typing import NamedTuple

from lance_pipeline.storage.schema import Reason


class RejectedFileError(ValueError):
    """The file cannot become a row; ``reason`` is one of a fixed list, the message is for people."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class UndecodableImageError(RejectedFileError):
    """The bytes are not an image that can be decoded completely."""


class Rejected(NamedTuple):
    """A rejected file, with the fields of REJECTED_SCHEMA."""

    path: str
    label: str
    size: int
    reason: str
    detail: str
