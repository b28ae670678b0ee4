"""Uniform access to local paths and object-store URIs through Arrow and Lance.

Credentials and the endpoint come from the environment variables that AWS's own tools read:
``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``, ``AWS_REGION`` and
``AWS_ENDPOINT_URL``.
"""

import os
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from lance_pipeline.errors import ExplainedError, InputError, ServiceError
from lance_pipeline.storage import whole_files
from lance_pipeline.storage.outages import is_outage
from lance_pipeline.storage.uris import Place, is_remote, normalized_uri

# A restarting store is unavailable for longer than the two or three seconds for which Lance retries by default.
_RETRIES = {"client_max_retries": "60", "client_retry_timeout": "120"}
# With Arrow's exponential backoff this takes 25 seconds in all.
_ATTEMPTS = 10
CHECK_STORE = (
    "Check the bucket's name, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, for a store of your own, "
    "AWS_ENDPOINT_URL"
)
"""Advice for when an object store fails or denies access."""


def join_uri(uri: str, *names: str) -> str:
    """``uri`` extended by these names; empty names are skipped."""
    return "/".join([uri.rstrip("/"), *(name.strip("/") for name in names if name)])


def storage_options(uri: str) -> dict[str, str] | None:
    """The options that Lance needs for ``uri`` in addition to the environment."""
    if not is_remote(uri):
        return None
    return _RETRIES | ({"allow_http": "true"} if _endpoint().startswith("http://") else {})


def filesystem(place: Place) -> tuple[pafs.FileSystem, str]:
    """Arrow's file system for a path or URI, and the path on it.

    Raises:
        InputError: the kind of store is unknown.
    """
    uri = normalized_uri(place)
    if not is_remote(uri):
        return pafs.LocalFileSystem(), uri
    scheme, _, path = uri.partition("://")
    if scheme == "s3":
        return _s3(), path
    try:
        return pafs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as error:
        failure = f"{uri} cannot be reached: {error}."
        raise store_failure(uri, error, failure, "Expected a path or an s3:// URI") from error


def require_reachable(uri: str) -> None:
    """Fail early if the object store is unreachable, where Lance would retry for minutes.

    Raises:
        OSError: the store does not respond, or denies access.
    """
    if urlsplit(uri).scheme == "s3":
        store, path = filesystem(uri)
        store.get_file_info(f"{path}/_versions")


def store_failure(uri: str, error: BaseException, failure: str, todo: str = CHECK_STORE) -> ExplainedError:
    """The error for a failure of the store or file system that holds ``uri``.

    Args:
        uri: what was read or written.
        error: the error of the library.
        failure: a sentence that says what failed.
        todo: what the user can do if it is not away, without the full stop.

    Returns:
        A ServiceError if the store is away, an InputError if it denies access or something is wrong with its address.
    """
    if not is_outage(error):
        return InputError(f"{failure} {todo}.")
    if is_remote(uri):
        return ServiceError(f"{failure} See that the store is up and, for a store of your own, check AWS_ENDPOINT_URL.")
    return ServiceError(f"{failure} See that the server of this file system is up.")


def write_whole(uri: str, data: bytes | pa.Buffer) -> None:
    """Write a file or object atomically; its folder is created.

    Raises:
        OSError: it cannot be written.
    """
    if not is_remote(uri):
        whole_files.write_whole(uri, memoryview(data))
        return
    store, path = filesystem(uri)
    # In a single write: after an error, the store would publish what was written before it.
    with store.open_output_stream(path) as stream:
        stream.write(data)


def _s3() -> pafs.FileSystem:
    endpoint = urlsplit(_endpoint())
    return pafs.S3FileSystem(
        endpoint_override=endpoint.netloc or None,
        scheme=endpoint.scheme or "https",
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        # The standard strategy waits for random times of up to minutes, and gives up after a hundred retries in all.
        retry_strategy=pafs.AwsDefaultS3RetryStrategy(max_attempts=_ATTEMPTS),
    )


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
