"""The documentation's examples run, its links lead somewhere, and the changes are those of this version."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lance_pipeline import __version__
from lance_pipeline.sources.sample import make_sample

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "docs" / "library.md"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *(ROOT / folder / "README.md" for folder in ("data", "benchmarks")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


def test_the_training_example_trains(tmp_path):
    (program,) = [
        code for code in re.findall(r"```python\n(.*?)```", LIBRARY.read_text(), re.DOTALL) if "ImageLoader(" in code
    ]
    make_sample("digits", str(tmp_path / "data" / "raw" / "digits"))
    # It writes to /tmp and to the user's cache.
    program = program.replace("/tmp/", f"{tmp_path}/")
    environment = os.environ | {"LANCE_PIPELINE_CACHE": str(tmp_path / "cache")}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    first, second = ended.stdout.splitlines()
    assert "images=1257" in first
    assert "images=1257" in second
    assert math.isfinite(float(second.split()[1]))


def test_the_example_of_debugging_runs_a_step_in_its_own_process(tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    # The first asset of the graph, of which the others need the record.
    (tmp_path / "debug.py").write_text(program.replace('"lance_train"', '"raw_images"'))
    (tmp_path / "data" / "dagster").mkdir(parents=True)
    places = {"LANCE_PIPELINE_DATA": str(tmp_path / "data"), "DAGSTER_HOME": str(tmp_path / "data" / "dagster")}
    subprocess.run([sys.executable, "debug.py"], cwd=tmp_path, env=os.environ | places, check=True)
    assert [*(tmp_path / "data" / "dagster" / "records" / "digits" / "raw_images").glob("*.json")]


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE))


def links(page: Path) -> list[str]:
    """The addresses that a page links to, but for those of the web."""
    found = re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text()))
    return [address for address in found if not re.match(r"[a-z]+:", address)]


def headings(page: Path) -> Iterator[str]:
    """The fragments by which a browser on GitHub finds the headings of a page."""
    code_free = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for title in re.findall(r"^#+ (.*)$", code_free, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", title)).strip().lower().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path):
    for address in links(page):
        path, _, fragment = address.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), address
        assert target.is_relative_to(ROOT), address
        if fragment:
            assert fragment in [*headings(target)], address


def test_every_page_is_linked_to_from_the_readme_on():
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        waiting += [(page.parent / address.partition("#")[0]).resolve() for address in links(page)]
    assert {page for page in PAGES if page.is_relative_to(ROOT / "docs")} <= seen
    assert ROOT / "SECURITY.md" in seen


def test_the_changes_begin_with_this_version_or_with_what_is_not_released():
    found = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert next(name for name in found if name != "Unreleased") == __version__
    assert "Unreleased" not in found[1:]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
