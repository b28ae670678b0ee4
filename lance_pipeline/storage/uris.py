"""The one spelling of a place: an absolute path, or the URI of an object store."""

import os
import re
from urllib.parse import unquote_to_bytes

from lance_pipeline.errors import InputError
from lance_pipeline.storage.addresses import Address

Place = str | os.PathLike[str]
"""A path, absolute, relative or with ``~``, or a URI such as ``file:///data/x.lance`` or ``s3://bucket/x.lance``."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_remote(uri: str) -> bool:
    """Whether this is the URI of an object store, such as ``s3://bucket/folder``, rather than a local path."""
    scheme = _SCHEME.match(uri)
    return scheme is not None and scheme[1].lower() != "file"


def normalized_uri(place: Place) -> str:
    """The spelling of a place that locks, records and comparisons use; the same for every way to write it.

    Args:
        place: relative paths start at the current folder, and ``~`` is the home folder. Both are for paths only; in
            a ``file://`` URI the path is percent-encoded.

    Returns:
        An absolute path without ``..`` and trailing slashes, or an object-store URI without trailing slashes.

    Raises:
        InputError: it is empty, or a URI that names no place.
        TypeError: it is no path.
    """
    text = os.fspath(place)
    if not isinstance(text, str):
        raise TypeError(f"expected a path or URI as str or os.PathLike[str], not {type(place).__name__}")
    if not text or "\0" in text:
        raise InputError(f"{text!r} is no path or URI. Expected a path, or an s3:// URI.")
    if is_remote(text):
        return _object_store_uri(text)
    if text.lower().startswith("file:/"):
        return _absolute(_path_of_file_uri(text))
    return _absolute(os.path.expanduser(text))


def local_path(place: Place, what: str) -> str:
    """``normalized_uri`` for a place that must be on this machine.

    Args:
        place: as for `normalized_uri`.
        what: what the place is for, for the error message.

    Raises:
        InputError: it is in an object store, or as for `normalized_uri`.
    """
    path = normalized_uri(place)
    if is_remote(path):
        raise InputError(f"{what} must be a local folder, not {Address(path)}. Give a path.")
    return path


def _absolute(path: str) -> str:
    whole = os.path.join(os.getcwd(), path)
    head, dots, tail = f"{whole}/".rpartition("/../")
    # `..` behind a link is the parent of the link's target.
    whole = os.path.join(os.path.realpath(f"{head}/.."), tail) if dots else whole
    return "/" + os.path.normpath(whole).lstrip("/")


def _path_of_file_uri(uri: str) -> str:
    path, host = uri[len("file:") :], ""
    if path.startswith("//"):
        # RFC 8089 allows to leave out an empty host with its slashes.
        host, slash, path = path.removeprefix("//").partition("/")
        path = slash + path
    if host.lower() not in ("", "localhost") or not path:
        raise InputError(
            f"{Address(uri)} names no file of this machine. Write file:///path, with three slashes and an absolute "
            "path, or the path alone."
        )
    if "?" in uri or "#" in uri:
        raise InputError(f"{Address(uri)} has a query or fragment. Write `?` as %3F and `#` as %23, or the path alone.")
    path = os.fsdecode(unquote_to_bytes(path))
    if "\0" in path:
        raise InputError(f"{Address(uri)} names no file: no path contains %00.")
    return path


def _object_store_uri(uri: str) -> str:
    scheme, _, path = uri.partition("://")
    bucket, *parts = path.rstrip("/").split("/")
    if not bucket or any(part in ("", ".", "..") for part in parts):
        raise InputError(
            f"{Address(uri)} names no place in an object store. Expected {scheme.lower()}://bucket/folder, without "
            "empty parts, `.` and `..`."
        )
    return f"{scheme.lower()}://{'/'.join([bucket, *parts])}"
