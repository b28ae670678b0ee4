"""Metadata for the asset pages."""

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from lance_pipeline.display import printable

if TYPE_CHECKING:
    import pyarrow as pa


def shown(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata with every plain text as :func:`lance_pipeline.display.printable` shows it.

    Whatever is made of names passes through here on its way to a page; values with a type of their own are shown by
    the function that makes them.
    """
    return {name: printable(value) if isinstance(value, str) else value for name, value in metadata.items()}


def link(url: str) -> dg.UrlMetadataValue | dg.TextMetadataValue:
    """An address, or a path of the UI, that can be clicked; another one, such as of a script, stays text."""
    safe = printable(url)
    clickable = safe.startswith(("http://", "https://")) or (safe.startswith("/") and not safe.startswith("//"))
    return dg.MetadataValue.url(safe) if clickable else dg.MetadataValue.text(safe)


def show_pictures(context: dg.AssetExecutionContext, key: dg.AssetKey, pictures: dict[str, bytes]) -> None:
    """Put pictures on the page of an asset that this step materializes.

    Metadata of a result are written to the event log twice, with the output and with the materialization; these are
    only with the materialization.
    """
    context.add_asset_metadata({name: picture(data) for name, data in pictures.items()}, key)


def picture(data: bytes) -> dg.MarkdownMetadataValue:
    """PNG or JPEG bytes as a picture in the page; they live in the event log, so keep them small."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return dg.MetadataValue.md(f"![picture](data:image/{kind};base64,{base64.b64encode(data).decode()})")


def column_schema(schema: "pa.Schema") -> dg.TableSchemaMetadataValue:
    """An Arrow schema as Dagster shows it, with the descriptions in its fields' metadata."""
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
    """Rows of equal keys as a table."""
    return dg.MetadataValue.table([dg.TableRecord(shown(row)) for row in rows])
