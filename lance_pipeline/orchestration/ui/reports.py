"""The full lists that checks write, for the browser."""

from collections.abc import Iterator
from html import escape
from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles


def reports_routes(folder: Path) -> list[Route | Mount]:
    """A list of all reports, and the reports themselves, to read."""

    def index(_: Request) -> HTMLResponse:
        lines = (f'<li><a href="{quote(name)}">{escape(name)}</a></li>' for name in _names(folder))
        found = "\n".join(lines) or "<li>None yet: checks write them when their data set is materialized.</li>"
        return HTMLResponse(f"<!doctype html><title>Reports</title><h1>Reports of checks</h1>\n<ul>\n{found}\n</ul>\n")

    # The folder is made by the first check that writes.
    return [Route("/", index), Mount("/", StaticFiles(directory=folder, check_dir=False))]


def _names(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            # A name that is not UTF-8 has no address.
            yield path.relative_to(folder).as_posix().encode(errors="replace").decode()
