"""Archives for tests, and helpers to unpack them."""

import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from lance_pipeline.errors import InputError
from lance_pipeline.sources.archive import make_from_archive
from lance_pipeline.sources.unpacking.limited_reader import UnusableArchiveError

NOISE = np.random.default_rng(0).bytes(3_000_000)
# Like CINIC-10: splits of classes, and files beside the splits.
FILES = {
    "README.md": b"about",
    "imagenet-contributors.csv": b"a, b",
    "train/cat/1.png": NOISE,
    "train/dog/2.png": b"",
    "valid/cat/3.png": b"three",
    "test/dog/4 ü.png": b"four",
}
LIMIT, MEMBERS = 10_000_000, 100_000
FORMATS = ("tar", "tar.gz", "tar.xz", "zip")


def pack(files: dict[str, bytes], form: str = "tar.gz") -> bytes:
    """An archive of these files and their folders."""
    buffer = io.BytesIO()
    folders = sorted({str(parent) for name in files for parent in Path(name).parents} - {"."})
    if form == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            for folder in folders:
                file.mkdir(folder)
            for name, content in files.items():
                file.writestr(name, content)
        return buffer.getvalue()
    with tar_writer(buffer, form) as file:
        for folder in folders:
            add(file, f"./{folder}", kind=tarfile.DIRTYPE)
        for name, content in files.items():
            add(file, f"./{name}", content)
    return buffer.getvalue()


def tar_writer(buffer: io.BytesIO, form: str) -> tarfile.TarFile:
    if form == "tar.gz":
        return tarfile.open(fileobj=buffer, mode="w:gz")
    return tarfile.open(fileobj=buffer, mode="w:xz") if form == "tar.xz" else tarfile.open(fileobj=buffer, mode="w")


def add(file: tarfile.TarFile, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = len(content), kind, link
    file.addfile(member, io.BytesIO(content))


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Packed once, because packing takes most of the time of these tests.
PACKED = {form: pack(FILES, form) for form in FORMATS}


def make(url: str, target: Path | str, checksum: str | None = None, limit: int = LIMIT, **more) -> bool:
    more = {"on_progress": lambda done, total: None, "max_members": MEMBERS} | more
    return make_from_archive(url, checksum, str(target), max_bytes=limit, **more)


def unfinished_files(target: Path) -> list[str]:
    """The files that are kept for the next call; checks that nothing else is beside the target."""
    downloads = target.parent / f".{target.name}.download"
    assert set(os.listdir(target.parent)) <= {downloads.name, f".{target.name}.lock"}
    return os.listdir(downloads)


def library_error(error: InputError) -> BaseException | None:
    """The archive library's error behind a refusal; None if the archive was refused for another reason."""
    cause = error.__cause__
    return cause.__cause__ if isinstance(cause, UnusableArchiveError) else None


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
