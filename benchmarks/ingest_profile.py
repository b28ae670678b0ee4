"""The processor time of each stage of an ingest, per image.

``python -m benchmarks.ingest_profile --write docs/benchmarks.md``
"""

import os
import tempfile
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import pyarrow as pa
from lance.fragment import write_fragments

from benchmarks.corpus import JPEG, KINDS, PNG, Kind, make_corpus
from benchmarks.options import parser_of
from benchmarks.report import replace_section
from benchmarks.results import typed
from lance_pipeline.images import ingest_split
from lance_pipeline.imaging.decoding import decode_image
from lance_pipeline.ingest.inspection import bytes_digest, inspect_images
from lance_pipeline.ingest.split_rows import Row, rows_to_batch
from lance_pipeline.process_settings import speed_up_process
from lance_pipeline.sources.listing import list_split_folders
from lance_pipeline.sources.raw_files import FileReader
from lance_pipeline.storage.schema import SPLIT_SCHEMA

# The sizes of an ingest's tasks and batches.
_TASK = 64
_BATCH = {"png": 256, "jpeg": 64}
_STAGES = ("list", "read", "sha256", "decode", "measure", "to Arrow", "write", "all else")

P = ParamSpec("P")
T = TypeVar("T")


class _Stages:
    """Sums processor time by stage, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(_STAGES, 0.0)

    def time(self, stage: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` and add its time to ``stage``; returns its result."""
        began = time.process_time()
        result = work(*args, **kwargs)
        self.seconds[stage] += time.process_time() - began
        return result


def profile(root: str, kind: Kind) -> dict[str, float]:
    """Microseconds of processor time per image for each stage, in a single thread.

    The last stage is the rest of a real ingest: bookkeeping, locks and contention.
    """
    stages = _Stages()
    files = stages.time("list", list_split_folders, root, {"train": "train"}).files.to_pylist()
    reader, rows = FileReader(root, "train"), []
    for start in range(0, len(files), _TASK):
        chunk = files[start : start + _TASK]
        contents = [stages.time("read", reader.read, one["path"], 0, 0) for one in chunk]
        pairs = [(content.data, stages.time("sha256", bytes_digest, content.data)) for content in contents]
        before = stages.seconds["decode"]
        for data, _ in pairs:
            stages.time("decode", decode_image, data)
        images = stages.time("measure", inspect_images, [data for data, _ in pairs])
        stages.seconds["measure"] -= stages.seconds["decode"] - before
        for one, content, pair, image in zip(chunk, contents, pairs, images, strict=True):
            if isinstance(image, Exception):
                raise image
            rows.append(Row(one["path"], one["label"], content.size, content.mtime_ns, *pair, image))
    size = _BATCH[kind.name]
    with tempfile.TemporaryDirectory(dir=os.path.dirname(root)) as folder:
        batches = [
            stages.time("to Arrow", rows_to_batch, "train", rows[start : start + size])
            for start in range(0, len(rows), size)
        ]
        data = pa.RecordBatchReader.from_batches(SPLIT_SCHEMA, iter(batches))
        stages.time("write", write_fragments, data, f"{folder}/stages.lance", schema=SPLIT_SCHEMA, mode="create")
        began = time.process_time()
        ingest_split(root, "train", f"{folder}/whole.lance")
        stages.seconds["all else"] = time.process_time() - began - sum(stages.seconds.values())
    return {stage: seconds / len(files) * 1e6 for stage, seconds in stages.seconds.items()}


def main() -> None:
    """Measure, print the table, and write it to the page where asked to."""
    speed_up_process()
    what = "Where the time of an ingest goes: the processor time of each of its stages, image by image."
    # With more PNG an ingest would use another process, whose time is not measured here.
    options = parser_of("ingest_profile", what, {PNG: 8_000, JPEG: 1_000}).parse_args()
    counts = {"png": options.png, "jpeg": options.jpeg}
    found = {name: profile(make_corpus(options.folder, kind, counts[name]), kind) for name, kind in KINDS.items()}
    lines = ["| stage | " + " | ".join(f"{name}, µs an image" for name in found) + " |", "|---|" + "--:|" * len(found)]
    lines += [
        f"| {stage} | " + " | ".join(f"{times[stage]:.1f}" for times in found.values()) + " |" for stage in _STAGES
    ]
    lines.append("| **all** | " + " | ".join(f"**{sum(times.values()):.1f}**" for times in found.values()) + " |")
    text = (
        "Processor time of each stage, measured alone and on one thread; `all else` is what a whole ingest takes "
        "beyond that: Python's own work, its lock, and threads in each other's way.\n\n" + "\n".join(lines)
        + f"\n\nBy `{typed('ingest_profile')}`."
    )  # fmt: skip
    print(text)
    if options.write:
        replace_section(options.write, f"## Where the time of an ingest goes\n\n{text}", "ingest-profile")


if __name__ == "__main__":
    main()
