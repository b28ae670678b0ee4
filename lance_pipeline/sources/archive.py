"""Downloading and unpacking datasets that are published as archives."""

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
from lance_pipeline.sources.archive_address import require_address, require_checksum_form
from lance_pipeline.sources.download import MIN_BYTES_PER_SECOND, Progress, fetch
from lance_pipeline.sources.unpacking.limited_reader import LimitedReader, UnusableArchiveError
from lance_pipeline.sources.unpacking.tar_members import tar_members
from lance_pipeline.sources.unpacking.tree import Tree
from lance_pipeline.sources.unpacking.zip_members import zip_members
from lance_pipeline.storage.addresses import Address
from lance_pipeline.storage.locking import locked_file
from lance_pipeline.storage.redaction import redact

# Raised by the libraries for a damaged archive. Of OSError only gzip's subclass, as others are errors of the disk.
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
    """Create ``folder`` from an archive unless it exists; returns whether it was created.

    The folder is created atomically. If the archive has a single folder at its top, the content of that
    folder is used. An interrupted download, even one interrupted by the end of the process, is kept in
    ``.<name>.download`` beside the folder and the next call resumes it; it is removed once the folder is
    created, or if it cannot be used. An archive on disk (``file://``) is only read. Of several concurrent
    calls one creates the folder and the others wait; the empty ``.<name>.lock`` remains.

    Args:
        url: the http, https or file address of a .tar, .tar.gz, .tar.xz or .zip archive.
        checksum: ``sha256:…`` or ``md5:…`` in hexadecimal digits; ``None`` skips the check.
        folder: the folder to create.
        max_bytes: maximum size of the archive, and also of its unpacked content.
        max_members: maximum number of files and folders in the archive.
        on_progress: called with the bytes received so far and the total, which is None if unknown.
        min_bytes_per_second: a download that is slower on average over a minute is aborted; the next call
            resumes it.

    Raises:
        InputError: the address or the checksum is malformed, the download fails or does not match the
            checksum, the archive is damaged, too large or not safe to unpack, or the folder cannot be written.
        ServiceError: the server or the network is away, busy or too slow.
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
            if target.exists():  # another process has created it in the meantime
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
            f"cannot create {folder} from {url}: {redact(error)}. Free space on the disk or choose a folder that you "
            f"may write to; LANCE_PIPELINE_DATA moves all data elsewhere. The next run resumes the download in {work}."
        ) from error
    return True


def _make_from_file(archive: Path, target: Path, unpacked: Path, meter: LimitedReader) -> None:
    """Unpack beside the target, then move the result into place atomically."""
    shutil.rmtree(unpacked, ignore_errors=True)  # may be left over from a killed process
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
    """Unpack the archive into ``folder``."""
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
            f"cannot be read completely as .tar, .tar.gz, .tar.xz or .zip: {shortened(str(error), 200)}. Run this "
            "again to download it again; if the result is the same, correct the address or ask its publisher."
        ) from error
