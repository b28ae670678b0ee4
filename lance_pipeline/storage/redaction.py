"""Removing secrets from texts before they are shown, logged or stored.

A secret is recognized by its position (the user part of a URL, the value of a parameter such as ``token``), or because
it is registered: the values of secret environment variables, and those of every ``Address`` created in this process.
"""

import base64
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import quote, quote_plus, unquote, unquote_plus

MARK = "***"
"""Replaces a secret; user parts are removed instead."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?!/)[^\s\"<>]+")
_ENCODED_USER = re.compile(r"(?i)(%3A%2F%2F)(?:(?!%2F|%3F|%23)[^\s\"<>&])*%40")
_PARAMETER = re.compile(r"(?i)([?&;#]|%3F|%26|%23)([\w.~%+\[\]-]{1,100}?)(=|%3D)([^\s\"'<>&;#]*)")
_ASSIGNMENT = re.compile(r"(?i)\b((?:\w+[_-])?(?:password|passwd|pwd|secret|token|signature)=)[^\s&;,)\"']+")
_HEADER = re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?)(?:\w+\s+)?[^\s\"',}]+")
# The value that pydantic quotes for an unknown key, which may be a misspelt `password`.
_UNKNOWN_FIELD = re.compile(r"(?s)(type=extra_forbidden, input_value=).*?(?=, input_type=)")
_SECRET_PARAMETER = re.compile(
    r"(x-amz-|x-goog-|x-ms-).*|.*(token|secret|passw|signature|credential|api[_-]?key|access[_-]?key).*"
    r"|(.*[_-])?(key|sig|pwd|pass|auth|authorization|jwt|hmac)|code|policy|session|key-pair-id"
)
_SECRET_VARIABLE = re.compile(
    r"(?i)(.*_)?(secret|token|password|passwd|pass|apikey|credential)(_.*)?|.*_pwd|(.*_)?key(_id)?"
)
# Shorter values of variables are usually words, such as `false`.
_SHORTEST_VARIABLE = 8
# Shorter secrets are replaced only as whole words.
_LONG = 8
_MOST_PASSES = 6
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d*)?(?=[/?#]|$)")
_known: set[str] = set()


def redact(text: object) -> str:
    """The text of an object without secrets; URLs stay readable, and usable where they need no secret."""
    before, redacted = "", str(text)
    # Removing one secret may reveal an address with another.
    for _ in range(_MOST_PASSES):
        if redacted == before:
            break
        before, redacted = redacted, _redact_once(redacted)
    return redacted


def _redact_once(text: str) -> str:
    # Registered secrets first: the URL pattern would match only the first part of a password with a space.
    redacted = _pattern(frozenset(_known), tuple(os.environ.items())).sub(MARK, text)
    redacted = _UNKNOWN_FIELD.sub(rf"\1{MARK}", redacted)
    redacted = _URL.sub(lambda match: without_user(match[0]), redacted)
    redacted = _ENCODED_USER.sub(r"\1", redacted)
    redacted = _PARAMETER.sub(_without_value, redacted)
    redacted = _ASSIGNMENT.sub(rf"\1{MARK}", redacted)
    return _HEADER.sub(rf"\1{MARK}", redacted)


def remember(secret: str) -> None:
    """Register a secret: from now on it is replaced in every text, in all its encodings. Short words are ignored."""
    _known.update(_forms(secret))


def remember_address(address: str) -> None:
    """Register all secrets of an address."""
    for secret in _secrets(address):
        remember(secret)


def user_part(address: str) -> tuple[int, int, bool] | None:
    """Find the user part of an address, which may contain unencoded ``@``, ``/``, ``:`` or spaces.

    Returns:
        The position of its first character, the position after its ``@``, and whether it is ambiguous; None if there
        is no user part.
    """
    scheme, found, rest = address.partition("://")
    if not found or rest.startswith("/"):
        return None
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path = re.split(r"[?#]", rest, maxsplit=1)[0]
    if "@" not in authority and ":" not in authority:
        return None
    # Without an `@` in the authority, what looks like a port may be the start of a password.
    region = path if "@" in authority else rest
    ends = [match.end() for match in re.finditer("@", region)]
    if not ends:
        return None
    readings = [end for end in (0, *ends) if _HOST.match(rest, end)]
    start = len(scheme) + len("://")
    return start, start + ends[-1], len(readings) > 1


def without_user(address: str) -> str:
    """The address without its user part."""
    part = user_part(address)
    return address if part is None else address[: part[0]] + address[part[1] :]


def _without_value(match: re.Match[str]) -> str:
    """The parameter, without its value if that is a secret or an address with secrets."""
    before, value = match[0][: len(match[0]) - len(match[4])], match[4]
    plain = _decoded(value)
    nested = plain != value and "://" in plain and redact(plain) != plain
    return f"{before}{MARK}" if value and (nested or _is_secret(match[2])) else match[0]


def _is_secret(parameter: str) -> bool:
    return bool(_SECRET_PARAMETER.fullmatch(_decoded(parameter).strip("[]").lower()))


def _decoded(text: str) -> str:
    for _ in range(3):
        text = unquote_plus(text)
    return text


def _secrets(address: str) -> Iterator[str]:
    """The secret parts of one address."""
    if part := user_part(address):
        user = address[part[0] : part[1] - 1]
        name, found, password = user.partition(":")
        yield user
        # A password equal to the user name, such as `postgres`, is not a secret but a common word.
        if found and password != name:
            yield password
            yield base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
    rest = without_user(address)
    if "://" in rest:
        yield rest.partition("#")[2]
    yield from (match[4] for match in _PARAMETER.finditer(rest) if _is_secret(match[2]))


def _forms(secret: str) -> set[str]:
    """The secret unchanged, decoded, encoded and as in its ``repr``; nothing for a short word."""
    if len(secret) < 4 or (len(secret) < 6 and secret.isalpha()):
        return set()
    plain = {secret, unquote(secret), unquote_plus(secret)}
    return {form for one in plain for form in (one, quote(one), quote(one, safe=""), quote_plus(one), repr(one)[1:-1])}


def _secrets_of_variable(name: str, value: str) -> Iterator[str]:
    """The secrets in an environment variable."""
    if "://" in value:
        yield from _secrets(value)
    elif _SECRET_VARIABLE.fullmatch(name) and len(value) >= _SHORTEST_VARIABLE and not os.path.exists(value):
        yield value


@lru_cache(maxsize=4)
def _pattern(known: frozenset[str], variables: tuple[tuple[str, str], ...]) -> re.Pattern[str]:
    """A pattern that matches every known secret, longest first."""
    of_environment = {
        form for name, value in variables for secret in _secrets_of_variable(name, value) for form in _forms(secret)
    }
    alternatives = [
        re.escape(one) if len(one) >= _LONG else rf"(?<![A-Za-z0-9]){re.escape(one)}(?![A-Za-z0-9])"
        for one in sorted(known | of_environment, key=len, reverse=True)
    ]
    return re.compile("|".join(alternatives) or "(?!)")
