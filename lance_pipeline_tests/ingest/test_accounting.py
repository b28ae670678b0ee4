"""Every file becomes a row or is quarantined for the right reason."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import lance
import numpy as np
import pytest

from lance_pipeline.errors import InputError
from lance_pipeline.images import IngestReport, LanceSplit, ingest_split
from lance_pipeline.ingest.quarantine import Limits
from lance_pipeline.sources.raw_files import MAX_BYTES
from lance_pipeline.storage.schema import REASONS, REJECTED_SCHEMA
from lance_pipeline.storage.tables import find_table
from lance_pipeline_tests.image_folders import class_image, encoded, write_image_folder
from lance_pipeline_tests.imaging.test_decoding import png_header

ANY_SHARE = Limits(max_rejected_fraction=1)
GOOD = encoded(class_image(0, np.random.default_rng(0), 64))
JPEG = encoded(class_image(0, np.random.default_rng(0), 64), "JPEG")


@pytest.fixture
def root(tmp_path):
    return write_image_folder(tmp_path / "pets", {"train": {"cat": 6, "dog": 5}})


@pytest.fixture
def target(tmp_path):
    return str(tmp_path / "lance" / "train.lance")


def put(root: str, name: str, data: bytes) -> Path:
    path = Path(root, "train", "dog", name)
    path.write_bytes(data)
    return path


def quarantine(report: IngestReport) -> dict[str, dict]:
    dataset = lance.dataset(report.rejected_uri, version=report.rejected_version)
    assert dataset.schema.names == REJECTED_SCHEMA.names
    rows = {row["path"]: row for row in dataset.to_table().to_pylist()}
    assert len(rows) == report.rejected
    assert {row["reason"] for row in rows.values()} <= set(REASONS)
    return rows


def reasons(report: IngestReport) -> dict[str, str]:
    return {path: row["reason"] for path, row in quarantine(report).items()}


CONTENTS = {
    "empty.png": (b"", "empty"),
    "text.jpg": (b"no image at all", "not_an_image"),
    "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
    "ended.jpg": (JPEG[: len(JPEG) * 3 // 4] + b"\xff\xd9", "truncated"),
    "claim.gif": (
        b"GIF89a" + b"\x41\x34" * 2 + encoded(class_image(0, np.random.default_rng(0), 8), "GIF")[10:],
        "suspicious",
    ),
    "cut.png": (GOOD[: len(GOOD) // 2], "truncated"),
    "cut.jpg": (JPEG[: len(JPEG) // 2], "truncated"),
    "head.png": (GOOD[:20], "truncated"),
    "broken.png": (GOOD[:100] + bytes(40) + GOOD[140:], "corrupt"),
    "bomb.png": (png_header(60_000, 60_000), "too_large"),
}


def test_bad_content_is_rejected_for_the_right_reason(root, target):
    for name, (data, _) in CONTENTS.items():
        put(root, name, data)
    report = ingest_split(root, "train", target, limits=ANY_SHARE)
    assert reasons(report) == {f"dog/{name}": reason for name, (_, reason) in CONTENTS.items()}
    assert (report.rows, report.rejected, report.scanned) == (11, len(CONTENTS), 11 + len(CONTENTS))
    for name, (data, _) in CONTENTS.items():
        row = quarantine(report)[f"dog/{name}"]
        assert (row["label"], row["size"]) == ("dog", len(data))
        assert row["detail"]
    assert report.reasons["truncated"] == 4
    facts = LanceSplit(target).facts
    assert facts["quarantine"] == {
        "uri": report.rejected_uri,
        "version": report.rejected_version,
        "rows": len(CONTENTS),
    }
    again = ingest_split(root, "train", target, limits=ANY_SHARE)
    assert (again.version, again.rejected_version) == (report.version, report.rejected_version)


def test_decompression_bomb_is_rejected_before_decoding(root, target):
    """Decoded, its 3.6 gigapixels would take 10 GB."""
    put(root, "bomb.png", png_header(60_000, 60_000))
    assert reasons(ingest_split(root, "train", target, limits=ANY_SHARE)) == {"dog/bomb.png": "too_large"}


def test_oversized_file_is_rejected_unread(root, target):
    with put(root, "huge.png", GOOD).open("r+b") as file:
        file.truncate(MAX_BYTES + 1)
    assert reasons(ingest_split(root, "train", target, limits=ANY_SHARE)) == {"dog/huge.png": "too_large"}


def test_pipes_sockets_and_bad_links_are_rejected_without_blocking(root, target):
    dog = Path(root, "train", "dog")
    os.mkfifo(dog / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(dog)
        server.bind("socket.png")
        os.symlink("/etc/hostname", dog / "away.png")
        os.symlink("nowhere.png", dog / "nowhere.png")
        os.symlink("circle.png", dog / "circle.png")
        os.symlink("../cat", dog / "folder.png")
        os.symlink("../cat/000.png", dog / "inside.png")
        report = ingest_split(root, "train", target, limits=ANY_SHARE)
    assert reasons(report) == {
        "dog/pipe.png": "not_a_file",
        "dog/socket.png": "not_a_file",
        "dog/away.png": "link",
        "dog/nowhere.png": "link",
        "dog/circle.png": "link",
        "dog/folder.png": "link",
    }
    assert report.counts["dog"] == 6
    assert "/etc/hostname" in quarantine(report)["dog/away.png"]["detail"]


def test_link_to_a_sibling_folder_with_the_same_prefix_is_rejected(root, target):
    neighbour = Path(f"{root}-private")
    neighbour.mkdir()
    (neighbour / "secret.png").write_bytes(GOOD)
    os.symlink(neighbour / "secret.png", Path(root, "train", "cat", "x.png"))
    assert reasons(ingest_split(root, "train", target, limits=ANY_SHARE)) == {"cat/x.png": "link"}


INGEST = """
import sys
from lance_pipeline.images import ingest_split
from lance_pipeline.ingest.quarantine import Limits
report = ingest_split(sys.argv[1], "train", sys.argv[2], limits=Limits(max_rejected_fraction=1))
print(report.rows, report.reasons, report.version)
"""


def ingest_without_privileges(root: str, target: str) -> str:
    """Ingest in a process that obeys file modes, even if this process runs as root."""
    drop = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    command = [*drop, sys.executable, "-c", INGEST, root, target]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_unreadable_file_is_read_once_permissions_allow_it(root, target):
    locked = put(root, "locked.png", GOOD)
    locked.chmod(0)
    assert ingest_without_privileges(root, target) == "11 {'unreadable': 1} 1"
    locked.chmod(0o444)
    assert ingest_without_privileges(root, target) == "12 {} 2"


def test_file_deleted_after_the_listing_is_missing(root, target):
    from lance_pipeline.sources.listing import list_split_folders

    files = list_split_folders(root, {"train": "train"}).files
    Path(root, "train", "cat", "003.png").unlink()
    report = ingest_split(root, "train", target, files=files, limits=ANY_SHARE)
    assert reasons(report) == {"cat/003.png": "missing"}
    assert (report.rows, report.scanned) == (10, 11)


def test_repaired_file_leaves_the_quarantine(root, target):
    path = put(root, "late.png", GOOD[:50])
    first = ingest_split(root, "train", target, limits=ANY_SHARE)
    path.write_bytes(GOOD)
    second = ingest_split(root, "train", target, limits=ANY_SHARE)
    assert (first.rejected, second.rejected) == (1, 0)
    assert (second.rows, second.added, second.version) == (12, 1, first.version + 1)
    path.write_bytes(b"")
    third = ingest_split(root, "train", target, limits=ANY_SHARE)
    assert (third.rows, third.removed, reasons(third)) == (11, 1, {"dog/late.png": "empty"})


def test_split_of_bad_files_only_becomes_an_empty_dataset(tmp_path, target):
    root = write_image_folder(tmp_path / "pets", {"train": {"cat": 1, "dog": 1}})
    for path in Path(root).rglob("*.png"):
        path.write_bytes(b"broken")
    report = ingest_split(root, "train", target, limits=ANY_SHARE)
    assert (report.rows, report.rejected, len(LanceSplit(target))) == (0, 2, 0)
    Path(root, "train", "cat", "000.png").write_bytes(GOOD)
    assert ingest_split(root, "train", target, limits=ANY_SHARE).rows == 1


def test_on_bad_image_fail_names_all_bad_files_and_keeps_the_version(root, target):
    before = ingest_split(root, "train", target)
    for number in range(3):
        put(root, f"bad{number}.png", b"bad")
    limits = Limits(on_bad_image="fail", max_rejected_fraction=1)
    with pytest.raises(InputError, match=r"3 of 14 (.|\n)*`on_bad_image`(.|\n)*not_an_image: 3") as caught:
        ingest_split(root, "train", target, limits=limits)
    assert [line.split(":")[0] for line in sorted(caught.value.details)] == [f"dog/bad{n}.png" for n in range(3)]
    assert LanceSplit(target).version == before.version
    assert ingest_split(root, "train", target, limits=ANY_SHARE).rejected == 3


def test_too_many_bad_files_fail_with_the_most_common_reasons(root, target):
    for number in range(9):
        put(root, f"bad{number}.png", b"bad" if number < 6 else b"")
    with pytest.raises(InputError, match="`max_rejected_fraction`"):
        ingest_split(root, "train", target, limits=Limits(max_rejected_fraction=0.1))
    assert find_table(target) is None
    with pytest.raises(InputError) as caught:
        ingest_split(root, "train", target, limits=Limits(max_rejected_fraction=0.44))
    message = str(caught.value)
    assert "9 of 20" in message
    assert message.index("not_an_image: 6") < message.index("empty: 3")
    assert ingest_split(root, "train", target, limits=Limits(max_rejected_fraction=0.45)).rejected == 9
