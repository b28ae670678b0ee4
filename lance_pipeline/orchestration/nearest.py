"""Suggesting a known name for a misspelt one."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches

# Least similarity, where 1 means equal; a lower limit would match words that merely share some letters.
_LEAST = 0.7


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The most similar known name; None if none is similar.

    Ignores case, spaces, `-` and `_`.
    """
    by_letters = {_letters(one): one for one in known}
    found = get_close_matches(_letters(name), by_letters, 1, _LEAST)
    return by_letters[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str], shown: Callable[[str], str] = str) -> str:
    """A question to append to an error, starting with a space; empty if no known name is similar.

    Args:
        name: the name as given.
        known: the known names.
        shown: formats the suggested name as the user should type it.
    """
    found = nearest(name, known)
    return "" if found is None else f" Did you mean {shown(found)}?"


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in "-_ ")
