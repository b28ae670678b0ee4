"""Writing pages, and their paths and addresses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg

from lance_pipeline.display import count, percent, printable, size
from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.metadata import is_web_address, link
from lance_pipeline.orchestration.paths import make_folder
from lance_pipeline.orchestration.runtime.databases import as_explained_error
from lance_pipeline.storage.whole_files import write_whole

_TEMPLATES = Path(__file__).with_name("templates")


def page_path(reports: Path, asset: str, run_id: str) -> Path:
    """The file of the page that a run makes for an asset, below the reports of its dataset."""
    return reports / asset / f"{run_id}.html"


def pages_of_run(reports: Path, run_id: str) -> list[Path]:
    """The pages that a run made for all assets of a dataset."""
    return sorted(reports.glob(str(page_path(Path(), "*", run_id))))


def page_address(key: dg.AssetKey, run_id: str) -> str:
    """The path of that page in the UI; without host and port, so that it works wherever the UI runs."""
    from lance_pipeline.orchestration.ui.guard import REPORTS_PATH

    return "/".join([REPORTS_PATH, *map(quote, key.path), f"{run_id}.html"])


def asset_address(key: dg.AssetKey) -> str:
    """The path of an asset in the UI."""
    return "/".join(["/assets", *map(quote, key.path)])


def write_page(
    context: dg.AssetExecutionContext, store: LanceStore, key: dg.AssetKey, template: str, content: dict[str, Any]
) -> dg.MetadataValue:
    """Write the page of an asset that this run materializes; returns the link to it.

    Args:
        context: the context of the step.
        store: locates the reports.
        key: the key of the asset.
        template: the name of its template.
        content: the content for the template. All text is escaped, so that names never act as markup.

    Raises:
        InputError: the page cannot be written.
    """
    path = page_path(store.reports_folder(key.path[0]), key.path[-1], context.run.run_id)
    common = {"key": key.to_user_string(), "run_id": context.run.run_id, "run": f"/runs/{context.run.run_id}"}
    document = _environment().get_template(f"{template}.html").render(common | content)
    make_folder(path.parent)
    try:
        write_whole(path, document.encode())
    except OSError as error:
        raise as_explained_error(error) or InputError(f"cannot write the page {path}: {error.strerror}.") from error
    return link(page_address(key, context.run.run_id))


def _environment() -> Any:
    """The environment of the templates, which escapes all text in a page, so that it never acts as markup."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[[Any], Any]] = {"percent": percent, "count": count, "size": size, "href": _href}
    environment.filters |= filters
    return environment


def _shown(value: object) -> object:
    # A subclass of str is Markup, which is part of the page.
    return printable(value) if type(value) is str else value


def _href(address: str) -> str:
    """An address that is safe to follow; any other is replaced by a link to nowhere."""
    # Check the address as the page will contain it: an escape may start with a backslash.
    safe = printable(address)
    return safe if is_web_address(safe) else "#"
