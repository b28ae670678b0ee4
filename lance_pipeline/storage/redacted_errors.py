"""Removing secrets from the messages of errors and of their causes before they are shown or stored."""

from collections.abc import Iterator
from contextlib import contextmanager

from lance_pipeline.storage.redaction import redact


@contextmanager
def without_secrets() -> Iterator[None]:
    """Remove secrets from errors raised within the context, and from their causes."""
    try:
        yield
    except Exception as error:
        if (safe := redacted(error)) is error:
            raise
        raise safe from safe.__cause__


def redacted(error: BaseException) -> BaseException:
    """The error, or a copy without secrets if it or one of its causes quotes a secret.

    The copy's class is a subclass that looks like the original; it has the traceback but none of the attributes.
    """
    return _copy(error, {}) if any(_quotes_secrets(one) for one in chain(error)) else error


def _quotes_secrets(error: BaseException) -> bool:
    return any(redact(text) != text for text in (str(error), *getattr(error, "__notes__", ())))


def _cause(error: BaseException) -> BaseException | None:
    """The error that a traceback shows above this one."""
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that a traceback shows with it: its causes and the members of groups."""
    return _related(error, set())


def _related(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    yield from _related(_cause(error), seen)
    for one in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield from _related(one, seen)


def _copy(error: BaseException, done: dict[int, BaseException]) -> BaseException:
    if id(error) in done:
        return done[id(error)]
    kind, message = type(error), redact(error)
    looks = {"__str__": lambda self: message, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    group = isinstance(error, BaseExceptionGroup)
    arguments = (message, [_copy(one, done) for one in error.exceptions]) if group else (message,)
    try:
        like = type(kind.__name__, (kind,), looks)
        copy = like.__new__(like, *arguments)
    except TypeError:
        # Some classes cannot be subclassed or instantiated, such as those of libraries in Rust.
        like = type(kind.__name__, (Exception,), looks)
        copy = like.__new__(like, *arguments)
    done[id(error)] = copy
    for note in getattr(error, "__notes__", ()):
        copy.add_note(redact(note))
    cause = _cause(error)
    copy.__cause__ = None if cause is None else _copy(cause, done)
    return copy.with_traceback(error.__traceback__)
