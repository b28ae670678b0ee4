"""Addresses that may contain secrets: shown without them, used in full only to connect."""

import os
import re
from typing import Any
from urllib.parse import quote, unquote

from pydantic import GetCoreSchemaHandler, SerializationInfo
from pydantic_core import CoreSchema, core_schema

from lance_pipeline.errors import InputError
from lance_pipeline.storage.redaction import MARK, redact, remember, remember_address, user_part, without_user

IN_FULL = {"addresses": "in full"}
"""Context for ``model_dump`` that keeps the secrets of addresses; never store the result."""
_VARIABLE = re.compile(r"\benv\s*(?:\.\s*|\(\s*['\"])(\w+)")
_KEPT = "%!$&'()*+,;=:~-._"


class Address:
    """A URL that never shows its user part or secret parameters, however it is formatted.

    Creating one registers its secrets: ``redact`` removes them from every text. As a pydantic field it is validated
    from a string and serialized without secrets, unless the context is ``IN_FULL``.

    Args:
        text: the URL, or a path, which is shown unchanged.
    """

    __slots__ = ("_text",)

    def __init__(self, text: "str | Address") -> None:
        self._text: str = text._text if isinstance(text, Address) else text  # noqa: SLF001
        if not self.is_template:
            remember_address(self._text)

    @property
    def is_template(self) -> bool:
        """Whether it contains unresolved variables, such as ``{{ env.TOKEN }}``."""
        return "{{" in self._text

    def full(self) -> str:
        """The URL to connect to, with the user part percent-encoded.

        Raises:
            InputError: the end of the user part is ambiguous.
        """
        part = user_part(self._text)
        if part is None:
            return self._text
        start, end, ambiguous = part
        if ambiguous:
            raise InputError(
                f"the address {self} is ambiguous: it has more than one `@`, or an `@` after what looks like a port. "
                "Write `@` as %40, `/` as %2F and `:` as %3A in name and password, and `@` as %40 elsewhere."
            )
        return f"{self._text[:start]}{quote(self._text[start : end - 1], safe=_KEPT)}@{self._text[end:]}"

    def without_user(self) -> str:
        """The URL to connect to for a client that receives name and password separately."""
        self.full()
        return without_user(self._text)

    def user(self) -> tuple[str, str]:
        """Name and password, decoded; each may be empty."""
        part = user_part(self._text)
        name, _, password = self._text[part[0] : part[1] - 1].partition(":") if part else ("", "", "")
        return unquote(name), unquote(password)

    def __str__(self) -> str:
        shown, hash_sign, fragment = without_user(self._text).partition("#")
        return redact(shown) + hash_sign + (MARK if fragment and "://" in shown else fragment)

    def __repr__(self) -> str:
        return repr(str(self))

    def __format__(self, specification: str) -> str:
        return format(str(self), specification)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A string in JSON schemas and files, and an `Address` in Python."""
        from_text = core_schema.no_info_after_validator_function(cls, core_schema.str_schema(strict=True))
        return core_schema.json_or_python_schema(
            json_schema=from_text,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), from_text]),
            serialization=core_schema.plain_serializer_function_ser_schema(
                _serialized, info_arg=True, return_schema=core_schema.str_schema()
            ),
        )


def require_no_user(uri: str) -> None:
    """Check that an object-store URI contains no credentials: it is shown and stored unchanged.

    Raises:
        InputError: it contains a user part.
    """
    if user_part(uri):
        raise InputError(
            f"{Address(uri)} was given with credentials. Remove them from the address, and set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY in the environment."
        )


def remember_variables(template: Address) -> None:
    """Register the values of the environment variables that a template names as secrets."""
    for name in _VARIABLE.findall(template._text):  # noqa: SLF001
        value = os.environ.get(name, "")
        if "://" in value:
            remember_address(value)
        else:
            remember(value)


def _serialized(address: Address, info: SerializationInfo) -> str:
    return address._text if info.context == IN_FULL else str(address)  # noqa: SLF001 - full() would reject a template
