"""Reading, checking and writing files, many at a time and in a fixed order."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from typing import NamedTuple

import pyarrow as pa

from lance_pipeline.images.columns import Indices
from lance_pipeline.images.ingestion.inspection import Inspected, bytes_digest, inspect_images
from lance_pipeline.images.ingestion.reading import FileReader
from lance_pipeline.images.object_store import is_remote
from lance_pipeline.images.rejection import RejectedFileError

# What one thread takes at once: enough to keep the overhead small, few enough to hold.
_TASK_FILES = 64
_TASK_BYTES = 4 << 20
# The coarsest clock of a file system, FAT's: within it two contents can have one time.
_SETTLED_NS = 2_000_000_000
# Requests to an object store mostly wait.
_REMOTE_THREADS = 16


class FileToRead(NamedTuple):
    """A listed file, by its position in the listing, and the digest of the row that it may still equal."""

    position: int
    path: str
    label: str
    size: int
    mtime_ns: int
    stored_sha256: bytes | None


class Examined(NamedTuple):
    """What became of a file: ``found`` an image, a reason against it, or None where its bytes are stored already.

    ``size`` and ``mtime_ns`` are those at the time of reading, ``sha256`` is None where the bytes
    could not be read. ``settled`` tells that the file was old enough for a later change to show.
    """

    file: FileToRead
    size: int
    mtime_ns: int
    sha256: bytes | None
    settled: bool
    found: Inspected | RejectedFileError | None


def examine(reader: FileReader, files: Iterable[FileToRead]) -> list[Examined]:
    """Read files and, unless their bytes are stored already, decode them in full.

    Raises:
        InputError: the storage failed.
    """
    results: list[Examined] = []
    new: list[tuple[bytes, bytes]] = []
    places: list[int] = []
    for file in files:
        began = time.time_ns()
        try:
            data, size, mtime_ns = reader.read(file.path, file.size, file.mtime_ns)
        except RejectedFileError as rejection:
            results.append(Examined(file, file.size, file.mtime_ns, None, settled=False, found=rejection))
            continue
        sha256 = bytes_digest(data)
        if sha256 != file.stored_sha256:
            new.append((data, sha256))
            places.append(len(results))
        results.append(Examined(file, size, mtime_ns, sha256, settled=mtime_ns < began - _SETTLED_NS, found=None))
    for place, found in zip(places, inspect_images(new), strict=True):
        results[place] = results[place]._replace(found=found)
    return results


def examined(
    reader: FileReader,
    files: pa.Table,
    todo: Indices,
    stored_sha256: Callable[[Indices], list[bytes | None]],
    threads: int | None = None,
) -> Iterator[Examined]:
    """Examine the files at ``todo`` in that order, on several threads, with few of them in memory.

    Args:
        reader: of the folder that they are in.
        files: a table of LISTING_SCHEMA.
        todo: positions in ``files``.
        stored_sha256: gives for some of the positions the digests of the rows they may still equal.
        threads: how many; by default one a core, and more where storage is remote.

    Raises:
        InputError: the storage failed.
    """
    threads = threads or (_REMOTE_THREADS if is_remote(reader.base) else os.cpu_count() or 1)

    def task(positions: Indices) -> list[Examined]:
        chunk = files.select(["path", "label", "size", "mtime_ns"]).take(pa.array(positions))
        columns = [positions.tolist(), *(column.to_pylist() for column in chunk.columns), stored_sha256(positions)]
        return examine(reader, map(FileToRead._make, zip(*columns, strict=True)))

    with ThreadPoolExecutor(threads, thread_name_prefix="examine") as pool:
        ahead: deque[Future[list[Examined]]] = deque()
        try:
            for positions in _tasks(files, todo):
                ahead.append(pool.submit(task, positions))
                if len(ahead) > 2 * threads:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _tasks(files: pa.Table, todo: Indices) -> Iterator[Indices]:
    """The positions in stretches of at most _TASK_FILES files and, one file at least, _TASK_BYTES bytes."""
    sizes = files["size"].to_numpy()
    start = 0
    while start < len(todo):
        total = accumulate(sizes[todo[start : start + _TASK_FILES]].tolist())
        count = max(sum(1 for size in total if size <= _TASK_BYTES), 1)
        yield todo[start : start + count]
        start += count
