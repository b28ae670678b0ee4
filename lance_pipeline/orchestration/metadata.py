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
    """The metadata with every plain text as :func:`lance_pipeline.display.printable` shows it.

    Whatever is made of names passes through here on its way to a page; values with a type of their own are shown by
    the function that makes them.
    """
    return {name: printable(value) if isinstance(value, str) else value for name, value in metadata.items()}


def link(url: str) -> dg.UrlMetadataValue | dg.TextMetadataValue:
    """An address of the web, or a path of the UI's own, that can be clicked; any other, such as a script's, is text."""
    safe = printable(url)
    return dg.MetadataValue.url(safe) if is_web_address(safe) else dg.MetadataValue.text(safe)


def is_web_address(address: str) -> bool:
    """Whether it leads to a page of the web, or of the server that shows it, and runs nothing."""
    return address.startswith(("http://", "https://")) or re.match(r"/(?![/\\])", address) is not None


def show_pictures(context: dg.AssetExecutionContext, key: dg.AssetKey, pictures: dict[str, bytes]) -> None:
    """Put pictures on the page of an asset that this step materializes.

    Metadata of a result are written to the event log twice, with the output and with the materialization; these are
    only with the materialization.
    """
    context.add_asset_metadata({name: picture(data) for name, data in pictures.items()}, key)


def picture(data: bytes) -> dg.MarkdownMetadataValue:
    """PNG or JPEG bytes as a picture in the page; they live in the event log, so keep them small."""
    return dg.MetadataValue.md(f"![picture]({picture_address(data)})")


def picture_address(data: bytes) -> str:
    """PNG or JPEG bytes as the address of a picture."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


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
