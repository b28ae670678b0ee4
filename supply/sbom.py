"""The software bill of materials (SBOM) of this environment, as CycloneDX JSON.

python -m supply.sbom dist/sbom.cdx.json

cyclonedx-py lists the installed packages. The lock files add the hashes of the archives, one of which pip has verified,
and mark the packages that only development needs.
"""

import json
import subprocess
import sys
from importlib.metadata import Distribution, distribution, version
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name

from supply.lock import DEVELOPMENT, ROOT, RUNTIME, Pin, pins

# Classifiers that do not name a specific licence.
VAGUE = {"License :: OSI Approved", "License :: DFSG approved"}


def installed() -> dict:
    """Describe the packages of the running interpreter's environment, with licences and dependencies."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", sys.executable, "--no-validate"]
    options = ["--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible"]
    ended = subprocess.run([*command, *options], check=False, capture_output=True, text=True)  # noqa: S603 - our own words
    if ended.returncode:
        sys.exit(ended.stderr)
    return json.loads(ended.stdout)


def licences(component: dict) -> list[dict]:
    """Return the licences that a package declares, from its licence files if it declares none elsewhere."""
    declared = [entry for entry in component.get("licenses", ()) if entry.get("license", {}).get("name") not in VAGUE]
    package = distribution(component["name"])
    header = package.metadata["License"].strip() if "License" in package.metadata else ""
    if header and not declared:
        declared = [{"license": {"name": header.splitlines()[0], "acknowledgement": "declared"}}]
    return declared or [
        {"license": {"name": path, "text": {"content": text}}} for path, text in _licence_files(package)
    ]


def _licence_files(package: Distribution) -> list[tuple[str, str]]:
    names = package.metadata.get_all("License-File") or []
    paths = [path for path in package.files or () if path.name in names]
    return [(path.name, path.read_text()) for path in paths]


def archives(component: dict, pin: Pin) -> dict:
    """Reference the archives that may have been installed, one for each platform."""
    return {
        "type": "distribution",
        "url": component["purl"],
        "comment": "one of the archives with these hashes",
        "hashes": [{"alg": "SHA-256", "content": digest} for digest in pin.hashes],
    }


def bill_of_materials() -> dict:
    """Describe this environment; packages missing from the lock files are reported on standard error."""
    bom = installed()
    bom["metadata"]["component"]["version"] = version(bom["metadata"]["component"]["name"])
    runtime, development = pins(RUNTIME), pins(DEVELOPMENT)
    for component in bom["components"]:
        if found := licences(component):
            component["licenses"] = found
        name = canonicalize_name(component["name"])
        pin = runtime.get(name) or development.get(name)
        if pin and pin.version == component["version"]:
            component["scope"] = "required" if name in runtime else "excluded"
            # Links to websites are dropped: validating them takes two thirds of the time.
            component["externalReferences"] = [archives(component, pin)]
        else:
            print(f"not pinned, and so without hashes: {component['name']} {component['version']}", file=sys.stderr)
    return bom


def main(path: str) -> None:
    """Write the SBOM to a file, after validating it against CycloneDX's schema."""
    text = json.dumps(bill_of_materials(), indent=1, sort_keys=True) + "\n"
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.exit(f"the SBOM breaks CycloneDX's schema: {error}")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
