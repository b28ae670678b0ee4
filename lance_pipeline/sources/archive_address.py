"""The forms of an archive's address and checksum, apart from the downloads: settings load without an HTTP client."""

import re

from lance_pipeline.errors import InputError
from lance_pipeline.storage.addresses import Address

_URL = re.compile(r"https?://[^\s/?#]\S*|file:///.+")
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}")


def require_address(url: Address) -> None:
    """Check the form of an address, without connecting to it.

    Raises:
        InputError: it is not an http, https or file address, or the end of its user part is ambiguous.
    """
    if not _URL.fullmatch(url.full()):
        raise InputError(
            f"the archive's address is {url!r}. Expected https://<server>/<path>, http://<server>/<path> or "
            "file:///<path> of a .tar, .tar.gz, .tar.xz or .zip archive."
        )


def require_checksum_form(checksum: str) -> None:
    """Check the form of a checksum.

    Raises:
        InputError: it is neither a SHA-256 nor an MD5.
    """
    if not _CHECKSUM.fullmatch(checksum.lower()):
        raise InputError(
            f"the archive's checksum is {checksum!r}. Expected `sha256:` and 64 hexadecimal digits, or `md5:` and 32, "
            "as given by the archive's publisher or by `sha256sum <file>`."
        )
