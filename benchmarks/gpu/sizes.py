"""How much each part measures: on a GPU, and in a trial on the CPU."""

from dataclasses import dataclass

SOURCES = {
    "resident": "one batch on the device",
    "cached": "ours, cached",
    "streamed": "ours, streamed",
    "files": "torchvision's ImageFolder",
    "article": "the article's way",
}
"""What feeds a bare step."""


@dataclass(frozen=True)
class Cell:
    """One shape of batch: the side of the images in pixels, the network's stem, images in a batch."""

    size: int
    stem: str
    batch: int

    def __str__(self) -> str:
        return f"{self.size} px, {self.stem} stem, batch {self.batch}"


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        repeated: steps of a training that is done twice; ``repeated_batch`` images in each.
        cells: shapes of batches, the most interesting first; with the first ``compiled`` of them ``torch.compile``.
        compiler: its backend.
        slice: seconds that a contestant runs at a time, in each of so many ``rounds``.
        png: small images of each split.
        jpeg: photos of each split, which the network sees at ``photo`` pixels.
        batch: images in a batch of the pipeline.
        epochs: of a training on the small images; ``photo_epochs`` of one on the photos.
        threads: of a loader; ``loading`` seconds with each number.
        workers: of the DataLoader of torch; ``feeding`` seconds with each loader, on the images of the kinds ``fed``.
        fashion: images of Fashion-MNIST to train on.
        fashion_epochs: of both recipes, of ``fashion_batches`` batches each; their own when None.
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
