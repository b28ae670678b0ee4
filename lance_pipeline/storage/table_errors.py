"""Classifying the errors of reading and writing Lance tables, and telling users what to do about them."""

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import lance
import pyarrow as pa
from lance.commit import CommitConflictError

from lance_pipeline.errors import DamagedError, ExplainedError, InputError, ServiceError
from lance_pipeline.storage.object_store import CHECK_STORE, is_remote, storage_options, store_failure
from lance_pipeline.storage.outages import is_outage

_LONGEST = 500
_NO_ACCESS = ("permission denied", "too many open files")
# Raised by Lance and Arrow when they read invalid bytes.
_UNREADABLE = (OSError, ValueError, RuntimeError, LookupError, pa.ArrowException)


class ConflictError(Exception):
    """Another writer committed a version in the meantime; the change must be planned again."""


class TableNotFoundError(InputError):
    """The dataset or the version does not exist."""

    def __init__(self, uri: str, version: int | None) -> None:
        which = "no Lance dataset" if version is None else f"no version {version} of a Lance dataset"
        super().__init__(f"there is {which} at {uri}. Materialize the asset that writes it.")


def verify_command(uri: str) -> str:
    """The command that lists the damage in a table."""
    return f"python -m lance_pipeline verify {shlex.quote(uri)}"


def is_unreadable(error: BaseException) -> bool:
    """Whether a damaged or missing file raises this error; Lance's panics do not derive from ``Exception``."""
    return isinstance(error, _UNREADABLE) or type(error).__name__ == "PanicException"


def is_damage(error: BaseException) -> bool:
    """Whether an error means that the content of a file is damaged, rather than that the file is inaccessible."""
    if isinstance(error, ServiceError) or is_outage(error):
        return False
    if isinstance(error, InputError):
        return isinstance(error, DamagedError) or (error.__cause__ is not None and is_damage(error.__cause__))
    return isinstance(error, ValueError | pa.ArrowException) or type(error).__name__ == "PanicException"


@contextmanager
def reading(uri: str, version: int | None) -> Iterator[None]:
    """Convert errors of reading a table to errors that name the table.

    Raises:
        DamagedError: a file of the table is missing or damaged.
        InputError: access is denied.
        ServiceError: the object store is away.
    """
    try:
        yield
    except ExplainedError:
        raise
    except BaseException as error:
        if not is_unreadable(error):
            raise
        raise unreadable(uri, version, error) from error


def damaged_rows(uri: str, version: int, count: int, names: Sequence[str]) -> DamagedError:
    """The error for rows that have changed since they were ingested; ``names`` are examples."""
    others = f" and {count - len(names)} others" if count > len(names) else ""
    return DamagedError(
        f"{count} rows of version {version} of {uri} are damaged on disk (they have changed since they were ingested): "
        f"{', '.join(names)}{others}. To see all of them and how to repair them, run: {verify_command(uri)}"
    )


def damaged_version(uri: str, version: int, what: str) -> DamagedError:
    """The error for a version whose set of rows has changed since it was ingested."""
    return DamagedError(
        f"version {version} of {uri} is damaged on disk: {what}. To see how to repair it, run: {verify_command(uri)}"
    )


def unreadable(uri: str, version: int | None, error: BaseException) -> ExplainedError:
    """The error for a table that cannot be read: a DamagedError, unless the cause is denied or failed access."""
    which = "the latest version" if version is None else f"version {version}"
    failure = f"cannot read {which} of the Lance dataset {uri}: {brief(error)}."
    if any(sign in str(error).lower() for sign in _NO_ACCESS):
        return InputError(f"{failure} Give yourself permission to read it, and run again.")
    if is_outage(error):
        return store_failure(uri, error, failure)
    if is_remote(uri):
        return InputError(
            f"{failure} {CHECK_STORE}. If the store is up, a file may be damaged; to see which, run: "
            f"{verify_command(uri)}"
        )
    return DamagedError(
        f"{failure} A file is missing or damaged. To see what is damaged and how to repair it, run: "
        f"{verify_command(uri)}"
    )


def brief(error: BaseException) -> str:
    """Lance's message without references to its source files."""
    text = re.sub(r",? /\S+\.rs:\d+:\d+", "", str(error))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def write_error(uri: str, error: OSError, version: int) -> Exception:
    """A conflict, or the error for a table that cannot be written.

    Args:
        uri: of the table.
        error: what Lance raised.
        version: the version that was to be changed; 0 if there was none.
    """
    # Lance does not raise its own class everywhere, such as where two writers create a table at once.
    if isinstance(error, CommitConflictError) or _latest_version(uri) > version:
        return ConflictError(str(error))
    return cannot_write(uri, error)


def _latest_version(uri: str) -> int:
    """The latest version of a table; 0 if there is none, or it cannot be read."""
    try:
        return lance.dataset(uri, storage_options=storage_options(uri)).version
    except (OSError, ValueError):
        return 0


def cannot_write(uri: str, error: Exception) -> ExplainedError:
    """The error for a dataset that cannot be written."""
    failure = f"cannot write the Lance dataset {uri}: {brief(error)}."
    if is_outage(error):
        return store_failure(uri, error, f"{failure} The previous version is intact.")
    if isinstance(error, ConflictError):
        return ServiceError(f"{failure} Others keep changing it; run again when they have finished.")
    hint = (
        "Check the bucket's name, the AWS_… variables and that the store is up"
        if is_remote(uri)
        else "Check free disk space and write permission on the folder; LANCE_PIPELINE_DATA moves all data elsewhere"
    )
    return InputError(f"{failure} {hint}. The previous version is intact.")
