"""Datasets published as an archive: fetched once and unpacked."""

import gzip
import lzma
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

from lance_pipeline.display import shortened
from lance_pipeline.errors import InputError
from lance_pipeline.sources.download import (
    MIN_BYTES_PER_SECOND,
    Progress,
    fetch,
    require_address,
    require_checksum_form,
)
from lance_pipeline.sources.unpacking.limited_reader import LimitedReader, UnusableArchiveError
from lance_pipeline.sources.unpacking.tar_members import tar_members
from lance_pipeline.sources.unpacking.tree import Tree
from lance_pipeline.sources.unpacking.zip_members import zip_members
from lance_pipeline.storage.addresses import Address
from lance_pipeline.storage.locking import locked_file
from lance_pipeline.storage.redaction import redact

# What the libraries raise on a damaged archive; of OSError only gzip's own.
_DAMAGED = (
    EOFError,
    RuntimeError,
    ValueError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def make_from_archive(
    url: Address | str,
    checksum: str | None,
    folder: str,
    *,
    max_bytes: int,
    max_members: int,
    on_progress: Progress,
    min_bytes_per_second: int = MIN_BYTES_PER_SECOND,
) -> bool:
    """Make ``folder`` of what an archive holds unless a folder is there; returns whether it was made.

    The folder appears whole or not at all. An archive with one folder at its top gives that folder's
    content. A download that was cut off, even by the end of the process, waits in
    ``.<name>.download`` beside the folder and the next call goes on with it; it is removed once the
    folder is made, or if it cannot be used. An archive on disk (``file://``) is only read. Of several
    calls at once one makes the folder and the others wait; the empty ``.<name>.lock`` stays.

    Args:
        url: an address, or its text: a .tar, .tar.gz, .tar.xz or .zip archive at an http, https or file address.
        checksum: ``sha256:…`` or ``md5:…`` in hexadecimal digits; ``None`` trusts what comes.
        folder: the folder to make.
        max_bytes: the most that the archive, and also what it unpacks to, may measure.
        max_members: the most files and folders that it may hold.
        on_progress: told the bytes that are here and, if the server says, the bytes in all.
        min_bytes_per_second: a download ends when less than that comes, on average over a minute; the next call
            continues it.

    Raises:
        InputError: the address or the checksum has no known form, the download fails or is not what
            the checksum says, the archive is damaged, too large or not safe to unpack, or the
            folder cannot be written.
    """
    url = Address(url)
    require_address(url)
    if checksum is not None:
        require_checksum_form(checksum)
    target = Path(folder)
    if target.exists():
        return False
    work = target.parent / f".{target.name}.download"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked_file(target.parent / f".{target.name}.lock", "LANCE_PIPELINE_DATA"):
            if target.exists():  # another process made it meanwhile
                return False
            work.mkdir(exist_ok=True)
            archive = fetch(
                url,
                checksum,
                work,
                max_bytes=max_bytes,
                on_progress=on_progress,
                min_bytes_per_second=min_bytes_per_second,
            )
            try:
                _make_from_file(archive, target, work / "unpacked", LimitedReader(url, max_bytes, max_members))
            except UnusableArchiveError as error:
                if archive.parent == work:
                    archive.unlink()
                raise InputError(f"the archive {url} {error}") from error
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"cannot make {folder} from {url}: {redact(error)}. Free space on the disk or choose a folder that you may "
            f"write to; LANCE_PIPELINE_DATA moves all data elsewhere. The next run resumes with what {work} holds."
        ) from error
    return True


def _make_from_file(archive: Path, target: Path, unpacked: Path, meter: LimitedReader) -> None:
    """Unpack beside the target, then move what came out into its place in one step."""
    shutil.rmtree(unpacked, ignore_errors=True)  # a process may have been killed while it unpacked
    try:
        unpacked.mkdir()
        _unpack(archive, unpacked, meter)
        entries = list(unpacked.iterdir())
        if not entries:
            raise UnusableArchiveError("is empty. Correct the address.")
        os.rename(entries[0] if len(entries) == 1 and entries[0].is_dir() else unpacked, target)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _unpack(archive: Path, folder: Path, meter: LimitedReader) -> None:
    """Write the archive's files below ``folder``."""
    with open(archive, "rb") as file:
        is_zip = file.read(2) == b"PK"
    tree = Tree(folder, meter)
    try:
        for name, stream in zip_members(archive, meter) if is_zip else tar_members(archive, meter):
            tree.add(name, stream)
    except InputError:
        raise
    except _DAMAGED as error:
        raise UnusableArchiveError(
            f"cannot be read to its end as .tar, .tar.gz, .tar.xz or .zip: {shortened(str(error), 200)}. Run this "
            "again to fetch it again; if it comes out the same, correct the address or ask its publisher."
        ) from error
