"""Paths and object-store URIs alike: where they are, and how Arrow and Lance reach them.

Credentials and the endpoint come from the environment, by the names that AWS's own tools read:
``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``, ``AWS_REGION`` and
``AWS_ENDPOINT_URL``.
"""

import os
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from lance_pipeline.errors import InputError
from lance_pipeline.storage import whole_files

# A store that restarts is away for longer than Lance's two or three seconds of patience.
_RETRIES = {"client_max_retries": "60", "client_retry_timeout": "120"}
# With Arrow's waits, each twice as long as the one before: 25 seconds in all.
_ATTEMPTS = 10
CHECK_STORE = (
    "Check the bucket's name, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, for a store of your own, "
    "AWS_ENDPOINT_URL"
)
"""What may be at fault when an object store fails or refuses."""


def is_remote(uri: str) -> bool:
    """Whether this is an object-store URI, such as ``s3://bucket/folder``, and not a path."""
    return "://" in uri


def join_uri(uri: str, *names: str) -> str:
    """The URI or path of something below ``uri``; empty names add nothing."""
    return "/".join([uri.rstrip("/"), *(name.strip("/") for name in names if name)])


def storage_options(uri: str) -> dict[str, str] | None:
    """What Lance needs beyond the environment to work at ``uri``."""
    if not is_remote(uri):
        return None
    return _RETRIES | ({"allow_http": "true"} if _endpoint().startswith("http://") else {})


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """Arrow's file system for ``uri``, and the path on it.

    Raises:
        InputError: no such kind of store is known.
    """
    if not is_remote(uri):
        return pafs.LocalFileSystem(), os.path.abspath(uri)
    scheme, _, path = uri.partition("://")
    if scheme == "s3":
        return _s3(), path.rstrip("/")
    try:
        return pafs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as error:
        raise InputError(f"{uri} cannot be reached: {error}. Expected a path or an s3:// URI.") from error


def reach(uri: str) -> None:
    """Ask for something at ``uri``: Lance asks many times over, for minutes, when a store does not answer.

    Raises:
        OSError: the store does not answer, or refuses.
    """
    if urlsplit(uri).scheme == "s3":
        store, path = filesystem(uri)
        store.get_file_info(f"{path}/_versions")


def write_whole(uri: str, data: bytes | pa.Buffer) -> None:
    """Write a file or object, whole or not at all; its folder is made.

    Raises:
        OSError: it cannot be written.
    """
    if not is_remote(uri):
        whole_files.write_whole(uri, memoryview(data))
        return
    store, path = filesystem(uri)
    # Even an error would publish what was written before it: hence in one go.
    with store.open_output_stream(path) as stream:
        stream.write(data)


def _s3() -> pafs.FileSystem:
    endpoint = urlsplit(_endpoint())
    return pafs.S3FileSystem(
        endpoint_override=endpoint.netloc or None,
        scheme=endpoint.scheme or "https",
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        # The standard strategy waits at random for up to minutes, and stops retrying after a hundred retries in all.
        retry_strategy=pafs.AwsDefaultS3RetryStrategy(max_attempts=_ATTEMPTS),
    )


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
