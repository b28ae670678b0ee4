"""The known name that a misspelt one was meant to be."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches

# Of 1 for equal names; below this, words that only share some letters would be taken for each other.
_LEAST = 0.7


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of the known names that is most like this one; None where none is.

    Case does not count, nor whether words are joined by `-`, `_` or nothing.
    """
    by_letters = {_letters(one): one for one in known}
    found = get_close_matches(_letters(name), by_letters, 1, _LEAST)
    return by_letters[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str], shown: Callable[[str], str] = str) -> str:
    """A question to append to an error, with a space before it; empty where no known name is near.

    Args:
        name: as it was given.
        known: the names that there are.
        shown: turns the nearest name into what is to be typed.
    """
    found = nearest(name, known)
    return "" if found is None else f" Did you mean {shown(found)}?"


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in "-_ ")
