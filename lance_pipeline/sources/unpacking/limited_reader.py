"""What an archive may take while it is unpacked, counted as it comes: its headers may lie."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from lance_pipeline.sources.download import require_within
from lance_pipeline.storage.addresses import Address

LARGEST_HEADER = 1 << 18
"""The most bytes of a member's own header: names have 4,096 at most, attributes seldom more than a few thousand."""


class UnusableArchiveError(Exception):
    """No later call can unpack this archive; the message continues the sentence "the archive …"."""


class LimitedReader:
    """Reads from ``source``, and refuses to read past the limits.

    Args:
        url: of the archive, for messages.
        max_bytes: the most bytes that may come out.
        max_members: the most files and folders.
    """

    def __init__(self, url: Address, max_bytes: int, max_members: int) -> None:
        self.source: IO[bytes]
        self._url, self._max_bytes, self._max_members = url, max_bytes, max_members
        self._bytes = self._members = 0
        self._last_byte_of_header: int | None = None

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes of the source.

        Raises:
            InputError: too many bytes have come.
            UnusableArchiveError: too many bytes have come for one header.
        """
        data = self.source.read(size)
        self._bytes += len(data)
        require_within(self._bytes, self._max_bytes, "bytes unpacked", "max_bytes", self._url)
        if self._last_byte_of_header is not None and self._bytes > self._last_byte_of_header:
            raise UnusableArchiveError(
                f"has a member whose header, with its name and attributes, takes more than {LARGEST_HEADER:,} bytes, "
                "which no file needs. Pack it without extended attributes, or tell its publisher."
            )
        return data

    @contextmanager
    def header(self) -> Iterator[None]:
        """What is read in this context is no more than one member's header."""
        self._last_byte_of_header = self._bytes + LARGEST_HEADER
        try:
            yield
        finally:
            self._last_byte_of_header = None

    def count_members(self, number: int) -> None:
        """Count files and folders as they come.

        Raises:
            InputError: there are too many.
        """
        self._members += number
        self.require_members(self._members)

    def require_members(self, number: int) -> None:
        """Refuse an archive that says that it has so many files and folders.

        Raises:
            InputError: there are too many.
        """
        require_within(number, self._max_members, "files and folders", "max_members", self._url)
