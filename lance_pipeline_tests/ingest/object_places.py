"""Folders of images on a disk or in an object store, for tests."""

import os
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs

from lance_pipeline_tests.image_folders import class_image, encoded
from lance_pipeline_tests.object_store import ObjectStore


class Place:
    """A folder on a disk or in an object store, accessed without the code under test."""

    def __init__(self, filesystem: pafs.FileSystem, path: str, uri: str) -> None:
        self.filesystem, self.path, self.uri = filesystem, path, uri

    def below(self, name: str) -> "Place":
        return Place(self.filesystem, f"{self.path}/{name}", f"{self.uri}/{name}")

    def write(self, name: str, data: bytes) -> None:
        path = f"{self.path}/{name}"
        if isinstance(self.filesystem, pafs.LocalFileSystem):
            self.filesystem.create_dir(os.path.dirname(path))
        with self.filesystem.open_output_stream(path) as file:
            file.write(data)

    def delete(self, name: str) -> None:
        self.filesystem.delete_file(f"{self.path}/{name}")

    def names(self) -> list[str]:
        selector = pafs.FileSelector(self.path, recursive=True, allow_not_found=True)
        return sorted(
            info.path.removeprefix(f"{self.path}/")
            for info in self.filesystem.get_file_info(selector)
            if info.is_file and "/.ready-" not in info.path
        )

    def files(self) -> dict[str, bytes]:
        contents = {}
        for name in self.names():
            with self.filesystem.open_input_file(f"{self.path}/{name}") as file:
                contents[name] = file.read()
        return contents


def place(store: ObjectStore, where: str, name: str, folder: Path) -> Place:
    if where == "s3":
        return Place(store.filesystem(), f"{store.bucket}/{name}", store.uri(name))
    return Place(pafs.LocalFileSystem(), f"{folder}/{name}", f"{folder}/{name}")


def image(seed: int) -> bytes:
    return encoded(class_image(seed, np.random.default_rng(seed), 8 + seed % 7))


def fill(place: Place, count: int) -> dict[str, bytes]:
    """Write ``count`` images of two classes; returns them by their paths below the split."""
    images = {f"{('cat', 'dog')[seed % 2]}/{seed:03d}.png": image(seed) for seed in range(count)}
    for name, data in images.items():
        place.write(f"train/{name}", data)
    return images
