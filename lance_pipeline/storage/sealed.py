"""Files that contain their own digest, so that damage is detected when they are read.

A JSON document contains it as its last field. Other files end with a seal: the XXH3-128 of everything before it, which
is fast and detects damage, not forgery.
"""

import hashlib
import json
import os
from typing import Any, BinaryIO, NamedTuple

import xxhash

from lance_pipeline.errors import DamagedError
from lance_pipeline.storage.formats import FIRST_FORMAT, FORMAT_KEY, require_known_format

FORMAT = 1
"""The latest format of JSON documents. Adding a field does not change it: readers ignore unknown fields."""
_DIGEST_KEY = "digest"
_MARK = b"\x00lance_pipeline\n"
_SEAL_SIZE = 16 + len(_MARK)
_CHUNK = 1 << 20


class Document(NamedTuple):
    """A parsed JSON document.

    Attributes:
        fields: the content, without format number and digest.
        verified: False if it has no digest, like documents of earlier versions of this package.
    """

    fields: dict[str, Any]
    verified: bool


def to_json(fields: dict[str, Any]) -> bytes:
    """The fields as a JSON document with a format number and a digest."""
    content = {FORMAT_KEY: FORMAT, **fields}
    return (json.dumps({**content, _DIGEST_KEY: _digest(content)}, indent=2, ensure_ascii=False) + "\n").encode()


def from_json(data: bytes, where: str, otherwise: str = "materialize again") -> Document:
    """Read a JSON document that :func:`to_json` wrote, or one without a digest.

    Args:
        data: the document.
        where: its path, for errors.
        otherwise: what to do about a document of a later version where this one cannot be upgraded.

    Raises:
        DamagedError: it differs from what was written.
        LaterFormatError: a later version of this package has written it.
    """
    try:
        content = json.loads(data.decode())
    except ValueError as error:
        raise DamagedError(f"{where} is damaged: it is not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise DamagedError(f"{where} is damaged: it is not a JSON object")
    digest, sealed = content.pop(_DIGEST_KEY, None), FORMAT_KEY in content
    if (sealed or digest is not None) and digest != _digest(content):
        raise DamagedError(f"{where} is damaged: its digest does not match its content")
    require_known_format(content.pop(FORMAT_KEY, FIRST_FORMAT), FORMAT, where, otherwise)
    return Document(content, digest is not None)


def _digest(content: dict[str, Any]) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class SealingWriter:
    """Writes to a file and seals it at the end, without keeping the content in memory.

    Args:
        file: the file to write to.

    Attributes:
        error: the error of a failed write; some libraries raise an error of their own instead.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, xxhash.xxh3_128()
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Write some bytes."""
        self._digest.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Flush the file's buffer."""
        self._file.flush()

    def seal(self) -> None:
        """Write the seal; nothing may be written after it."""
        self._file.write(self._digest.digest() + _MARK)


def file_is_intact(path: str | os.PathLike[str]) -> bool | None:
    """Whether a sealed file is intact; None if it has no seal.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        left = os.fstat(file.fileno()).st_size - _SEAL_SIZE
        digest = xxhash.xxh3_128()
        while left > 0 and (chunk := file.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
        return _seal_matches(digest, file.read())


def sealed(data: bytes | memoryview) -> bytes:
    """The bytes followed by their seal."""
    return b"".join((data, xxhash.xxh3_128(data).digest(), _MARK))


def unsealed(data: bytes) -> tuple[memoryview, bool | None]:
    """The content without its seal, and whether it is intact; if there is no seal, all bytes and None."""
    view = memoryview(data)
    content, seal = view[:-_SEAL_SIZE], view[-_SEAL_SIZE:]
    intact = _seal_matches(xxhash.xxh3_128(content), bytes(seal))
    return (view if intact is None else content), intact


def _seal_matches(digest: "xxhash.xxh3_128", seal: bytes) -> bool | None:
    if len(seal) != _SEAL_SIZE or not seal.endswith(_MARK):
        return None
    return seal == digest.digest() + _MARK
