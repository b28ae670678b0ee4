"""Transparent pixels become what the setting says, in every format and everywhere an image is decoded."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, features

from lance_pipeline.images import Augment, CachePlace, ImageDataset, ImageLoader, LanceSplit, ingest_split
from lance_pipeline.imaging.decoding import decode_image
from lance_pipeline.ingest.ingestion import IngestSource, ingest
from lance_pipeline.ingest.stored_split import StoredSplit
from lance_pipeline.sources.listing import list_unsplit_folders
from lance_pipeline.sources.split_assignment import ByFractions
from lance_pipeline.storage.tables import change_rows
from lance_pipeline.storage.transparency import Transparency
from lance_pipeline_tests.image_folders import encoded, write_image_folder
from lance_pipeline_tests.quality.small_splits import noise

SIDE = 12
LEVELS: dict[Transparency, int] = {"white": 255, "black": 0, "grey": 128}
HIDDEN = 30
SHOWN: dict[Transparency, int] = {**LEVELS, "drop": HIDDEN}


def drawing(shape: str = "disc", hidden: int = 0) -> Image.Image:
    """A red shape on a transparent background; ``hidden`` is the colour stored beneath the transparent pixels."""
    pixels = np.full((SIDE, SIDE, 4), (hidden, hidden, hidden, 0), np.uint8)
    rows, columns = np.ogrid[:SIDE, :SIDE]
    inside = (rows - 6) ** 2 + (columns - 6) ** 2 < 20 if shape == "disc" else (rows < 6) & (columns < 6)
    pixels[inside] = (200, 30, 30, 255)
    return Image.fromarray(pixels)


def png(depth: int, colour: int, row: bytes, width: int, transparent: bytes) -> bytes:
    """A PNG of one row, of kinds that no library writes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", transparent), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


@given(arrays(np.uint8, (4, 5, 4)), st.sampled_from(sorted(LEVELS)))
def test_pixels_are_blended_with_the_background(pixels, transparency):
    alpha = pixels[:, :, 3:].astype(float) / 255
    expected = alpha * pixels[:, :, :3] + (1 - alpha) * LEVELS[transparency]
    blended = decode_image(encoded(Image.fromarray(pixels)), transparency).pixels
    assert np.abs(blended - expected).max() <= 1
    assert (decode_image(encoded(Image.fromarray(pixels)), "drop").pixels == pixels[:, :, :3]).all()


@pytest.mark.parametrize("transparency", sorted(LEVELS))
@pytest.mark.parametrize(
    "kind", ["PNG", "WEBP", "TIFF", "GIF", "ICO", "TGA", "SGI", "JPEG2000", *["AVIF"] * bool(features.check("avif"))]
)
def test_transparent_parts_are_blended_in_every_format(kind, transparency):
    options = {"lossless": True} if kind == "WEBP" else {}
    buffer = io.BytesIO()
    drawing().resize((16, 16), Image.Resampling.NEAREST).save(buffer, kind, **options)
    pixels = decode_image(buffer.getvalue(), transparency).pixels
    assert np.abs(pixels[0, 0].astype(int) - LEVELS[transparency]).max() <= 2
    assert np.abs(pixels[8, 8].astype(int) - (200, 30, 30)).max() <= 8


@pytest.mark.parametrize(
    ("name", "data", "seen"),
    [
        ("one bit", png(1, 0, bytes([0b10000000]), 2, b"\0\0"), [255, 128]),
        ("two bits", png(2, 0, bytes([0b00011011]), 4, b"\0\1"), [0, 128, 170, 255]),
        ("four bits", png(4, 0, bytes([0x5F]), 2, b"\0\5"), [128, 255]),
        ("eight bits", png(8, 0, bytes([5, 6]), 2, b"\0\5"), [128, 6]),
        ("sixteen bits", png(16, 0, bytes([5, 1, 5, 2]), 2, b"\5\1"), [128, 4]),
        ("colour", png(8, 2, bytes([9, 9, 9, 4, 4, 4]), 2, b"\0\x09" * 3), [128, 4]),
        ("sixteen bits of colour", png(16, 2, b"\x09\1" * 3 + b"\4\1" * 3, 2, b"\x09\1" * 3), [128, 4]),
    ],
)
def test_png_with_one_transparent_colour(name, data, seen):
    pixels = decode_image(data, "grey").pixels
    assert pixels[0].tolist() == [[value] * 3 for value in seen], name
    assert 128 not in decode_image(data, "drop").pixels


def write_drawings(root: Path) -> str:
    """Two classes of drawings that differ only in alpha, each with a photo and an opaque drawing."""
    for number, shape in enumerate(("disc", "square")):
        folder = root / "train" / shape
        folder.mkdir(parents=True)
        drawing(shape, HIDDEN).save(folder / "drawing.png")
        drawing(shape, HIDDEN).save(folder / "drawing.webp", lossless=True, exact=True)
        noise(number, (SIDE, SIDE)).save(folder / "photo.jpg")
        noise(10 + number, (SIDE, SIDE)).save(folder / "plain.png")
        noise(20 + number, (SIDE, SIDE)).convert("RGBA").save(folder / "opaque.png")
    for path in root.rglob("*.*"):
        os.utime(path, ns=(10**18, 10**18))
    return str(root)


TRANSPARENT, ALL = 4, 10


def digests(uri: str, version: int | None = None) -> dict[str, bytes]:
    table = LanceSplit(uri, version).to_table(["path", "pixel_digest"])
    return dict(zip(*(column.to_pylist() for column in table.columns), strict=True))


def remove_transparency_facts(uri: str) -> None:
    """Remove the facts that datasets of earlier versions lack."""
    split = LanceSplit(uri)
    facts = {name: fact for name, fact in split.facts.items() if name not in ("transparency", "blended_on")}
    change_rows(split.dataset, {}, [], facts)


def test_loaders_use_the_transparency_of_the_ingest(tmp_path):
    root = write_drawings(tmp_path / "raw")
    for transparency, level in SHOWN.items():
        uri = str(tmp_path / f"{transparency}.lance")
        ingest_split(root, "train", uri, transparency=transparency)
        corners = ImageDataset(uri, image_size=SIDE)
        row = LanceSplit(uri).paths().index("disc/drawing.png")
        assert corners[row][0][:, 0, 0].tolist() == [level] * 3
        for place in (None, CachePlace(str(tmp_path / "cache"))):
            loader = ImageLoader(uri, batch_size=ALL, image_size=SIDE, training=False, cache=place)
            for _ in range(2):
                [(images, _)] = loader
                assert images[row, :, 0, 0].tolist() == [level] * 3
        whole = Augment(flip=False, resized_crop=(1.0, 1.0))
        for cache_size in (None, SIDE):
            loader = ImageLoader(
                uri, batch_size=ALL, image_size=SIDE, training=True, augment=whole, cache=None, cache_size=cache_size
            )
            [(images, labels)] = loader
            seen = {tuple(image[:, -1, -1].tolist()) for image, label in zip(images, labels, strict=True) if label == 1}
            assert (level,) * 3 in seen


def test_drawings_that_differ_only_in_alpha_are_not_duplicates(tmp_path):
    root = write_drawings(tmp_path / "raw")
    for label in ("disc", "square"):
        path = Path(root, "train", label, "drawing.png")
        image = np.asarray(Image.open(path)).copy()
        image[:, :, :3] = HIDDEN
        Image.fromarray(image).save(path)
    for transparency in SHOWN:
        uri = str(tmp_path / f"{transparency}.lance")
        ingest_split(root, "train", uri, transparency=transparency)
        found = digests(uri)
        assert (found["disc/drawing.png"] == found["square/drawing.png"]) == (transparency == "drop")


def test_older_dataset_is_unchanged_until_it_is_ingested_again(tmp_path):
    root, uri = write_drawings(tmp_path / "raw"), str(tmp_path / "train.lance")
    first = ingest_split(root, "train", uri, transparency="drop")
    remove_transparency_facts(uri)
    assert LanceSplit(uri).transparency == "drop"
    row = LanceSplit(uri).paths().index("disc/drawing.png")
    assert ImageDataset(uri, image_size=SIDE)[row][0][:, 0, 0].tolist() == [HIDDEN] * 3
    report = ingest_split(root, "train", uri)
    assert (report.added, report.removed, report.version) == (TRANSPARENT, TRANSPARENT, 3)
    assert (report.fingerprint, report.blended_on) == (first.fingerprint, "white")
    rebuilt = str(tmp_path / "rebuilt.lance")
    ingest_split(root, "train", rebuilt)
    assert digests(uri) == digests(rebuilt)
    assert ImageDataset(uri, version=2, image_size=SIDE)[row][0][:, 0, 0].tolist() == [HIDDEN] * 3
    assert (ingest_split(root, "train", uri).version, LanceSplit(uri).transparency) == (3, "white")


def test_setting_changes_no_row_without_transparent_images(tmp_path):
    root, uri = write_image_folder(tmp_path / "raw", {"train": {"cat": 3, "dog": 3}}), str(tmp_path / "train.lance")
    first = ingest_split(root, "train", uri, transparency="drop")
    remove_transparency_facts(uri)
    report = ingest_split(root, "train", uri)
    assert (report.added, report.removed, report.fingerprint) == (0, 0, first.fingerprint)
    assert report.blended_on == "drop"
    assert LanceSplit(uri).transparency == "white"


def test_drawn_splits_follow_the_blended_pixels(tmp_path):
    """An image's split is drawn by its pixels, so another setting may move it; it is still in one split only."""
    root = Path(write_drawings(tmp_path / "raw"))
    for number in range(20):
        for label in ("disc", "square"):
            drawing(label, number).save(root / "train" / label / f"{number}.png")

    def ingest_halves(name: str, transparency: Transparency) -> dict[str, set[str]]:
        listing, halves = list_unsplit_folders(str(root / "train")), ByFractions({"a": 0.5, "b": 0.5})
        source = IngestSource(listing.root, "", lambda: listing.files, None, halves, f"{name}_seen", transparency)
        uris = {split: f"{name}_{split}.lance" for split in ("a", "b")}
        ingest(source, uris)
        return {split: set(digests(uri)) for split, uri in uris.items()}

    before = ingest_halves(str(tmp_path / "one"), "drop")
    after = ingest_halves(str(tmp_path / "one"), "white")
    assert after == ingest_halves(str(tmp_path / "two"), "white")
    assert before != after
    assert not after["a"] & after["b"]
    assert len(after["a"] | after["b"]) == 40 + ALL


def test_interrupted_ingest_with_another_setting_leaves_no_files(tmp_path, monkeypatch):
    root, uri = write_drawings(tmp_path / "raw"), str(tmp_path / "train.lance")
    with monkeypatch.context() as patch:
        patch.setattr(StoredSplit, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ingest_split(root, "train", uri, transparency="drop")
    report = ingest_split(root, "train", uri, transparency="white")
    assert (report.added, report.rows) == (ALL, ALL)
    files = {fragment.data_files()[0].path for fragment in LanceSplit(uri).dataset.get_fragments()}
    assert {path.name for path in Path(uri, "data").iterdir()} == files
