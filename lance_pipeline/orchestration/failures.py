"""How an error of the user's reaches the user."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from lance_pipeline.errors import InputError


@contextmanager
def clear_failures() -> Iterator[None]:
    """Turns an InputError into the step's failure, described by its message and never retried."""
    try:
        yield
    except InputError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from None
