"""The requirements in pyproject.toml, and the packages they bring into the running environment."""

import tomllib
from collections.abc import Iterable
from importlib.metadata import distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from supply.lock import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

BUILD = [Requirement(text) for text in PROJECT["build-system"]["requires"]]
INSTALL = [Requirement(text) for text in PROJECT["dependency-groups"]["install"]]
RUNTIME = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
DEVELOPMENT = [Requirement(text) for text in PROJECT["project"]["optional-dependencies"]["dev"]]


def closure(requirements: Iterable[Requirement]) -> dict[str, str]:
    """Return the packages that requirements bring here, including their dependencies, with the installed versions."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(requirement, "") for requirement in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        package = distribution(requirement.name)
        name = canonicalize_name(requirement.name)
        versions[name] = package.version
        for asked in ["", *requirement.extras]:
            if (name, asked) not in seen:
                seen.add((name, asked))
                waiting += [(Requirement(text), asked) for text in package.requires or ()]
    return versions
