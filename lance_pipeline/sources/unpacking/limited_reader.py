"""Limits on unpacking an archive, enforced on the data actually read, because headers may lie."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from lance_pipeline.sources.download import require_within
from lance_pipeline.storage.addresses import Address

LARGEST_HEADER = 1 << 18
"""Maximum bytes of a member's header: names have at most 4,096, attributes rarely more than a few thousand."""


class UnusableArchiveError(Exception):
    """The archive can never be unpacked; the message continues the sentence "the archive …"."""


class LimitedReader:
    """Reads from ``source`` and enforces limits.

    Args:
        url: of the archive, for messages.
        max_bytes: maximum number of unpacked bytes.
        max_members: maximum number of files and folders.
    """

    def __init__(self, url: Address, max_bytes: int, max_members: int) -> None:
        self.source: IO[bytes]
        self._url, self._max_bytes, self._max_members = url, max_bytes, max_members
        self._bytes = self._members = 0
        self._last_byte_of_header: int | None = None

    def read(self, size: int) -> bytes:
        """Read at most ``size`` bytes of the source.

        Raises:
            InputError: the archive has too many bytes.
            UnusableArchiveError: a header has too many bytes.
        """
        data = self.source.read(size)
        self._bytes += len(data)
        require_within(self._bytes, self._max_bytes, "bytes unpacked", "max_bytes", self._url)
        if self._last_byte_of_header is not None and self._bytes > self._last_byte_of_header:
            raise UnusableArchiveError(
                f"has a member whose header, with its name and attributes, takes more than {LARGEST_HEADER:,} bytes. "
                "Pack it without extended attributes, or report it to its publisher."
            )
        return data

    @contextmanager
    def header(self) -> Iterator[None]:
        """Limit the bytes read within the context to the header of one member."""
        self._last_byte_of_header = self._bytes + LARGEST_HEADER
        try:
            yield
        finally:
            self._last_byte_of_header = None

    def count_members(self, number: int) -> None:
        """Count unpacked files and folders.

        Raises:
            InputError: there are too many.
        """
        self._members += number
        self.require_members(self._members)

    def require_members(self, number: int) -> None:
        """Check the number of files and folders that an archive claims to have.

        Raises:
            InputError: there are too many.
        """
        require_within(number, self._max_members, "files and folders", "max_members", self._url)
