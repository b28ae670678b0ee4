"""Why a file cannot become an image."""

from typing import NamedTuple

from lance_pipeline.storage.schema import Reason


class RejectedFileError(ValueError):
    """The file cannot become a row; ``reason`` is from the closed list, the message is for people."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class UndecodableImageError(RejectedFileError):
    """The bytes are not an image that can be decoded whole."""


class Rejected(NamedTuple):
    """A file that could not become a row, as in REJECTED_SCHEMA."""

    path: str
    label: str
    size: int
    reason: str
    detail: str
