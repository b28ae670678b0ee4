"""Loaders on torch's DataLoader that decode with Pillow, one image at a time."""

import os
from typing import Any

from benchmarks.contestants import Clock, article, hugging_face, read_bytes, walk_numbered
from benchmarks.loading.cases import WORKERS, Case, Opener, Places, opened_rgb, torch_loader, torchvision_transform


def prepare_article(case: Case, root: str, out: str) -> None:
    """Write the dataset like the article."""
    del case
    article(root, out, Clock())


def article_loader(case: Case, places: Places, *, workers: int, **settings: Any) -> Opener:
    """The article's loader: the whole table in memory, read cell by cell; the settings are those of the DataLoader."""
    import lance
    from torch.utils.data import Dataset

    transform = torchvision_transform(case)

    class TableImages(Dataset):
        """The rows of a table in memory."""

        def __init__(self) -> None:
            self._table = lance.dataset(places.data).to_table()
            self._labels = sorted(set(self._table["label"].to_pylist()))

        def __len__(self) -> int:
            return self._table.num_rows

        def __getitem__(self, index: int) -> tuple[Any, int]:
            image = opened_rgb(self._table["image"][index].as_py())
            return transform(image), self._labels.index(self._table["label"][index].as_py())

    return lambda: torch_loader(TableImages(), workers, shuffle=True, **settings)


def image_folder(case: Case, places: Places, *, workers: int, **settings: Any) -> Opener:
    """The files, read by torchvision's dataset; the settings are those of the DataLoader."""
    from torchvision.datasets import ImageFolder

    transform = torchvision_transform(case)
    root = os.path.join(places.root, "train")
    return lambda: torch_loader(ImageFolder(root, transform), workers, shuffle=True, **settings)


def prepare_hugging_face(case: Case, root: str, out: str) -> None:
    """Write Hugging Face's Arrow files."""
    del case
    hugging_face(root, out, Clock())


def hugging_face_loader(case: Case, places: Places) -> Opener:
    """Hugging Face datasets: rows are fetched in batches and transformed on access."""
    import datasets  # pyright: ignore[reportMissingImports]
    import torch

    transform = torchvision_transform(case)

    def transformed(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"image": [transform(image.convert("RGB")) for image in rows["image"]], "label": rows["label"]}

    def collated(rows: list[dict[str, Any]]) -> tuple[Any, Any]:
        return torch.stack([row["image"] for row in rows]), torch.tensor([row["label"] for row in rows])

    def start() -> Any:
        loaded = datasets.load_from_disk(places.data)
        loaded.set_transform(transformed)
        return torch_loader(loaded, WORKERS, shuffle=True, collate_fn=collated)

    return start


def prepare_webdataset(case: Case, root: str, out: str) -> None:
    """Write tar files, equally many per worker, with the files in random order, so sequential reads are shuffled."""
    import random

    from webdataset import ShardWriter  # pyright: ignore[reportMissingImports]

    del case
    files = list(walk_numbered(root))
    random.Random(0).shuffle(files)  # noqa: S311
    os.makedirs(out)
    most = -(-len(files) // (WORKERS * 4))
    with ShardWriter(os.path.join(out, "%06d.tar"), maxcount=most, verbose=0) as writer:
        for index, path in files:
            stem, suffix = os.path.splitext(os.path.basename(path))
            writer.write({"__key__": stem, suffix[1:]: read_bytes(path), "cls": index})


def webdataset_loader(case: Case, places: Places) -> Opener:
    """WebDataset: the workers make the batches, as its documentation advises."""
    import torch
    import webdataset  # pyright: ignore[reportMissingImports]

    transform = torchvision_transform(case)
    shards = sorted(os.path.join(places.data, name) for name in os.listdir(places.data))

    def collated(rows: list[tuple[Any, int]]) -> tuple[Any, Any]:
        return torch.stack([image for image, _ in rows]), torch.tensor([label for _, label in rows])

    def start() -> Any:
        rows = webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(1000).decode("pil")
        rows = rows.to_tuple("png;jpg", "cls").map_tuple(transform, int).batched(64, collation_fn=collated)
        loader = webdataset.WebLoader(rows, batch_size=None, num_workers=WORKERS, persistent_workers=True)
        return lambda _: loader

    return start
