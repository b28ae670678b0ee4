"""Loaders that decode in compiled code, on threads."""

import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.contestants import walk_numbered
from benchmarks.loading.cases import BATCH, MEAN, RATIO, SCALE, STD, WORKERS, Batch, Case, Epochs, Opener, Places

_SHORTER = 256


def prepare_ffcv(case: Case, root: str, out: str, *, shrunk: bool) -> None:
    """Write FFCV's file: pixels for PNG and for shrunk images, otherwise JPEG."""
    from ffcv.fields import IntField, RGBImageField  # pyright: ignore[reportMissingImports]
    from ffcv.writer import DatasetWriter  # pyright: ignore[reportMissingImports]
    from torchvision.datasets import ImageFolder

    longer = round(_SHORTER * max(case.kind.width, case.kind.height) / min(case.kind.width, case.kind.height))
    field = RGBImageField(
        write_mode="jpg" if case.crop and not shrunk else "raw", max_resolution=longer if shrunk else None
    )
    writer = DatasetWriter(out, {"image": field, "label": IntField()}, num_workers=WORKERS)
    writer.from_indexed_dataset(ImageFolder(os.path.join(root, "train")))


def ffcv_loader(case: Case, places: Places) -> Opener:
    """FFCV: fully compiled, with the file in the page cache."""
    from ffcv.fields.basics import IntDecoder  # pyright: ignore[reportMissingImports]
    from ffcv.fields.rgb_image import (  # pyright: ignore[reportMissingImports]
        RandomResizedCropRGBImageDecoder,
        SimpleRGBImageDecoder,
    )
    from ffcv.loader import Loader, OrderOption  # pyright: ignore[reportMissingImports]
    from ffcv.transforms import (  # pyright: ignore[reportMissingImports]
        NormalizeImage,
        RandomHorizontalFlip,
        Squeeze,
        ToTensor,
        ToTorchImage,
    )

    def start() -> Epochs:
        size = (case.size, case.size)
        decoder = RandomResizedCropRGBImageDecoder(size, SCALE, RATIO) if case.crop else SimpleRGBImageDecoder()
        mean, std = np.array(MEAN) * 255, np.array(STD) * 255
        loader = Loader(
            places.data,
            batch_size=BATCH,
            num_workers=WORKERS,
            os_cache=True,
            order=OrderOption.RANDOM,
            drop_last=False,
            pipelines={
                # On the CPU it normalises arrays, so before they become tensors.
                "image": [
                    decoder,
                    RandomHorizontalFlip(),
                    NormalizeImage(mean, std, np.float32),
                    ToTensor(),
                    ToTorchImage(convert_back_int16=False),
                ],
                "label": [IntDecoder(), ToTensor(), Squeeze()],
            },
        )
        return lambda _: loader

    return start


def spdl_loader(case: Case, places: Places) -> Opener:
    """SPDL: FFmpeg decodes, crops and resizes the files, one batch per thread."""
    import spdl.io  # pyright: ignore[reportMissingImports]
    import torch
    from spdl.pipeline import PipelineBuilder  # pyright: ignore[reportMissingImports]

    # The library is loaded at first use.
    spdl.io.utils.get_ffmpeg_versions()
    mean, std = (torch.tensor(values).mul(255).view(3, 1, 1) for values in (MEAN, STD))

    def decoded(path: str) -> Any:
        packets = spdl.io.demux_image(path)
        return spdl.io.decode_packets(packets, filter_desc=_crop_filter(packets.width, packets.height, case))

    def loaded(files: list[tuple[int, str]]) -> Batch:
        buffer = spdl.io.convert_frames([decoded(path) for _, path in files])
        images = spdl.io.to_torch(buffer).permute(0, 3, 1, 2)
        chosen = torch.rand(len(images)) < 0.5
        images[chosen] = images[chosen].flip(-1)
        return images.float().sub_(mean).div_(std), torch.tensor([label for label, _ in files])

    def start() -> Epochs:
        files = list(walk_numbered(places.root))

        def epoch(number: int) -> Iterator[Batch]:
            order = random.Random(number).sample(files, len(files))  # noqa: S311
            parts = [order[at : at + BATCH] for at in range(0, len(order), BATCH)]
            builder = PipelineBuilder().add_source(parts).pipe(loaded, concurrency=WORKERS).add_sink(WORKERS)
            pipeline = builder.build(num_threads=WORKERS, max_failures=0)
            with pipeline.auto_stop():
                yield from pipeline.get_iterator()

        return epoch

    return start


def _crop_filter(width: int, height: int, case: Case) -> str | None:
    """FFmpeg's filter for a resized random crop in RGB; None if the pixels need no change."""
    if not case.crop:
        # A filter graph costs more than decoding so few pixels.
        return None
    for _ in range(10):
        area = width * height * random.uniform(*SCALE)  # noqa: S311
        ratio = np.exp(random.uniform(*np.log(RATIO)))  # noqa: S311
        wide, high = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < wide <= width and 0 < high <= height:
            break
    else:
        wide = high = min(width, height)
    left, top = random.randint(0, width - wide), random.randint(0, height - high)  # noqa: S311
    crop = f"crop={wide}:{high}:{left}:{top}:exact=1"
    return f"{crop},scale={case.size}:{case.size}:flags=bilinear,format=pix_fmts=rgb24"
