"""Metadata for the asset pages."""

import base64
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from lance_pipeline.display import printable

if TYPE_CHECKING:
    import pyarrow as pa


def shown(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata with every plain string passed through :func:`lance_pipeline.display.printable`.

    Everything built from names passes through here on its way to a page; typed values are escaped by the functions
    that create them.
    """
    return {name: printable(value) if isinstance(value, str) else value for name, value in metadata.items()}


def link(url: str) -> dg.UrlMetadataValue | dg.TextMetadataValue:
    """A clickable link to a web address or a path within the UI; any other address, such as a script, becomes text."""
    safe = printable(url)
    return dg.MetadataValue.url(safe) if is_web_address(safe) else dg.MetadataValue.text(safe)


def is_web_address(address: str) -> bool:
    """Whether an address leads to a page on the web or on the current server, and runs no script."""
    return address.startswith(("http://", "https://")) or re.match(r"/(?![/\\])", address) is not None


def show_pictures(context: dg.AssetExecutionContext, key: dg.AssetKey, pictures: dict[str, bytes]) -> None:
    """Show pictures on the page of an asset that this step materializes.

    Dagster writes the metadata of a result to the event log twice, with the output and with the materialization; these
    pictures are written only once, with the materialization.
    """
    context.add_asset_metadata({name: picture(data) for name, data in pictures.items()}, key)


def picture(data: bytes) -> dg.MarkdownMetadataValue:
    """PNG or JPEG bytes as a picture in the page; stored in the event log, so keep it small."""
    return dg.MetadataValue.md(f"![picture]({picture_address(data)})")


def picture_address(data: bytes) -> str:
    """PNG or JPEG bytes as a data URL."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def column_schema(schema: "pa.Schema") -> dg.TableSchemaMetadataValue:
    """An Arrow schema as Dagster metadata, with the descriptions from its fields' metadata."""
    columns = [
        dg.TableColumn(
            field.name,
            str(field.type),
            description=(field.metadata or {}).get(b"description", b"").decode() or None,
            constraints=dg.TableColumnConstraints(nullable=field.nullable),
        )
        for field in schema
    ]
    return dg.MetadataValue.table_schema(dg.TableSchema(columns))


def table(rows: list[dict[str, Any]]) -> dg.TableMetadataValue:
    """Rows with equal keys as table metadata."""
    return dg.MetadataValue.table([dg.TableRecord(shown(row)) for row in rows])
