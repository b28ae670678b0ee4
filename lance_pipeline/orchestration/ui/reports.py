"""Serves the pages of materializations and the full lists of checks to the browser."""

from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from lance_pipeline.display import printable

# Paths below the reports folder: pages <dataset>/<asset>/<run>.html, lists <dataset>/<split>_<check>.csv.
_PAGE_DEPTH = 3


def reports_routes(folder: Path) -> list[Route | Mount]:
    """The routes of the list of all reports, and of the reports themselves, read-only."""

    def index(_: Request) -> HTMLResponse:
        lists = "".join(f"<li>{_link(name, name)}</li>\n" for name in _lists(folder))
        found = f"<h2>Pages, the latest first</h2>\n{_pages(folder)}<h2>Lists of checks</h2>\n<ul>\n{lists}</ul>\n"
        none = "<p>None yet: they are written when a dataset is materialized.</p>\n"
        title = "<!doctype html><title>Reports</title><h1>Reports</h1>\n"
        return HTMLResponse(title + (found if "<li>" in found else none))

    # The first run that writes a report creates the folder.
    return [Route("/", index), Mount("/", StaticFiles(directory=folder, check_dir=False))]


def _pages(folder: Path) -> str:
    """The pages of all assets, each with asset and time."""
    written = {path: path.stat().st_mtime for path in _files(folder) if _is_page(path, folder)}
    lines = [
        f"<li>{_link(_name(path, folder), _name(path.parent, folder))}, "
        f"{datetime.fromtimestamp(written[path], UTC):%Y-%m-%d %H:%M} UTC</li>\n"
        for path in sorted(written, key=lambda path: (-written[path], path))
    ]
    return f"<ul>\n{''.join(lines)}</ul>\n"


def _lists(folder: Path) -> Iterator[str]:
    yield from (_name(path, folder) for path in _files(folder) if not _is_page(path, folder))


def _files(folder: Path) -> Iterator[Path]:
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())


def _is_page(path: Path, folder: Path) -> bool:
    return path.suffix == ".html" and len(path.relative_to(folder).parts) == _PAGE_DEPTH


def _name(path: Path, folder: Path) -> str:
    # A name that is not UTF-8 has no URL.
    return path.relative_to(folder).as_posix().encode(errors="replace").decode()


def _link(name: str, text: str) -> str:
    return f'<a href="{quote(name)}">{escape(printable(text))}</a>'
