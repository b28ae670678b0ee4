"""What every loader is asked for, and the types that they share."""

from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from typing import Any

from benchmarks.corpus import JPEG, LARGE, PNG, Kind

BATCH = 64
WORKERS = 2
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

Batch = tuple[Any, Sized]
"""Images (n, 3, size, size), float32, and labels; the bounds give no images."""
Epochs = Callable[[int], Iterable[Batch]]
"""The batches of the epoch of that number."""
Opener = Callable[[], Epochs]
"""Opens a loader; what comes before, such as imports, is not timed."""


@dataclass(frozen=True)
class Case:
    """One sort of image and what is made of it.

    Attributes:
        kind: the images.
        size: height and width of what is given out, in pixels.
        crop: whether a random part is resized to that; otherwise the images have that size.
    """

    kind: Kind
    size: int
    crop: bool

    @property
    def title(self) -> str:
        """For headings."""
        made = f"random resized crop to {self.size}, " if self.crop else ""
        return f"{self.kind.title}: {made}flip, normalise"


@dataclass(frozen=True)
class Places:
    """Where a contestant finds and leaves things.

    Attributes:
        root: the image folder.
        data: what was prepared of it.
        own: a folder that is empty at the start of a round.
    """

    root: str
    data: str
    own: str


CASES = {
    case.kind.name: case
    for case in (Case(PNG, 32, crop=False), Case(JPEG, 224, crop=True), Case(LARGE, 224, crop=True))
}


def torchvision_transform(case: Case) -> Callable[[Any], Any]:
    """From a Pillow image to what is asked for."""
    from torchvision import transforms

    first = transforms.RandomResizedCrop(case.size, SCALE, RATIO) if case.crop else transforms.Resize(case.size)
    return transforms.Compose(
        [first, transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )


def opened_rgb(data: bytes) -> Any:
    """A Pillow image of some bytes."""
    import io

    from PIL import Image

    return Image.open(io.BytesIO(data)).convert("RGB")


def torch_loader(dataset: Any, workers: int, **settings: Any) -> Epochs:
    """The DataLoader of torch, whose workers live on from epoch to epoch."""
    from torch.utils.data import DataLoader

    settings = {"batch_size": BATCH, "persistent_workers": workers > 0} | settings
    loader = DataLoader(dataset, num_workers=workers, **settings)
    return lambda _: loader
