"""The sizes of each part's measurements: on a GPU, and in a trial on the CPU."""

from dataclasses import dataclass

SOURCES = {
    "resident": "one batch on the device",
    "cached": "ours, cached",
    "streamed": "ours, streamed",
    "files": "torchvision's ImageFolder",
    "article": "the article's way",
}
"""The sources of batches for a bare step."""


@dataclass(frozen=True)
class Cell:
    """A batch shape: the side of the images in pixels, the network's stem, and the number of images."""

    size: int
    stem: str
    batch: int

    def __str__(self) -> str:
        return f"{self.size} px, {self.stem} stem, batch {self.batch}"


@dataclass(frozen=True)
class Sizes:
    """The sizes of the measurements.

    Attributes:
        repeated: steps of the training that runs twice, with ``repeated_batch`` images each.
        cells: batch shapes, the most interesting first; the first ``compiled`` also run with ``torch.compile``.
        compiler: the backend of ``torch.compile``.
        slice: seconds per contestant in each of ``rounds`` rounds.
        png: the number of small images of each split.
        jpeg: the number of photos of each split, which the network gets at ``photo`` pixels.
        batch: images in a batch of the pipeline.
        epochs: epochs of a training on the small images; ``photo_epochs`` on the photos.
        threads: numbers of loader threads; each runs for ``loading`` seconds.
        workers: workers of torch's DataLoader; each loader runs for ``feeding`` seconds, on the kinds ``fed``.
        fashion: images of Fashion-MNIST to train on.
        fashion_epochs: epochs of both recipes, of ``fashion_batches`` batches each; None uses those of the recipes.
    """

    repeated: int
    repeated_batch: int
    cells: tuple[Cell, ...]
    compiled: int
    compiler: str
    slice: float
    rounds: int
    png: dict[str, int]
    jpeg: dict[str, int]
    photo: int
    batch: int
    epochs: int
    photo_epochs: int
    threads: tuple[int, ...]
    loading: float
    workers: int
    feeding: float
    fed: tuple[str, ...]
    fashion: int
    fashion_epochs: int | None
    fashion_batches: int | None


FULL = Sizes(
    repeated=100,
    repeated_batch=64,
    cells=(
        Cell(32, "imagenet", 256),
        Cell(224, "imagenet", 128),
        Cell(32, "imagenet", 64),
        Cell(32, "small", 256),
        Cell(224, "imagenet", 64),
        Cell(32, "imagenet", 1024),
        Cell(224, "imagenet", 256),
        Cell(32, "imagenet", 512),
        Cell(32, "small", 64),
        Cell(32, "small", 1024),
        Cell(32, "small", 512),
    ),
    compiled=2,
    compiler="inductor",
    slice=0.1,
    rounds=5,
    png={"train": 90_000, "val": 9_000, "test": 9_000},
    jpeg={"train": 6_000, "val": 600},
    photo=224,
    batch=64,
    epochs=3,
    photo_epochs=3,
    threads=(1, 2, 4, 8, 16),
    loading=1.0,
    workers=16,
    feeding=2.0,
    fed=("png", "jpeg"),
    fashion=10_000,
    fashion_epochs=None,
    fashion_batches=None,
)
TINY = Sizes(
    repeated=20,
    repeated_batch=2,
    cells=(Cell(32, "imagenet", 4),),
    compiled=1,
    compiler="eager",
    slice=0.05,
    rounds=2,
    png={"train": 20, "val": 10, "test": 10},
    jpeg={"train": 12, "val": 10},
    photo=48,
    batch=4,
    epochs=2,
    photo_epochs=1,
    threads=(1, 2),
    loading=0.1,
    workers=2,
    feeding=0.1,
    fed=("jpeg",),
    fashion=40,
    fashion_epochs=1,
    fashion_batches=2,
)
