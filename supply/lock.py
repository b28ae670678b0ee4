"""The lock files: the one installed version of each package, and the hashes of its archives."""

from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
RUNTIME = ROOT / "requirements.txt"
DEVELOPMENT = ROOT / "requirements-dev.txt"  # adds the development packages; includes RUNTIME


@dataclass(frozen=True)
class Pin:
    """One package of a lock file."""

    name: str
    version: str
    marker: Marker | None
    hashes: tuple[str, ...]


def pins(lock: Path) -> dict[str, Pin]:
    """Read a lock file.

    Args:
        lock: A requirements file in which every requirement has hashes.

    Returns:
        The pins by normalised name.

    Raises:
        ValueError: A line is not an exact version with SHA-256 hashes, or a package is pinned twice.
    """
    found: dict[str, Pin] = {}
    for line in lock.read_text().replace("\\\n", " ").splitlines():
        if not line or line.startswith(("#", "-r ")):
            continue
        requirement_text, *hashes = (part.strip() for part in line.split("--hash="))
        requirement = Requirement(requirement_text)
        name = canonicalize_name(requirement.name)
        (specifier,) = requirement.specifier
        if specifier.operator != "==" or name in found:
            raise ValueError(f"{lock.name}: {requirement_text} is not the one version of {name}")
        if not hashes or not all(entry.startswith("sha256:") for entry in hashes):
            raise ValueError(f"{lock.name}: {requirement_text} has no SHA-256 hashes")
        digests = tuple(entry.removeprefix("sha256:") for entry in hashes)
        found[name] = Pin(name, specifier.version, requirement.marker, digests)
    return found
