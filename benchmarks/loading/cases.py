"""The cases that every loader is measured on, and shared types."""

from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from typing import Any

from benchmarks.corpus import JPEG, LARGE, PNG, Kind

BATCH = 64
WORKERS = 2
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

Batch = tuple[Any, Sized]
"""Images (n, 3, size, size), float32, and labels; the bounds yield no images."""
Epochs = Callable[[int], Iterable[Batch]]
"""Returns the batches of the epoch with the given number."""
Opener = Callable[[], Epochs]
"""Opens a loader; earlier work, such as imports, is not timed."""


@dataclass(frozen=True)
class Case:
    """A kind of image and its preparation.

    Attributes:
        kind: the images.
        size: height and width of the yielded images, in pixels.
        crop: whether a random part is resized to that size; otherwise the images have that size.
    """

    kind: Kind
    size: int
    crop: bool

    @property
    def title(self) -> str:
        """The title for headings."""
        made = f"random resized crop to {self.size}, " if self.crop else ""
        return f"{self.kind.title}: {made}flip, normalise"


@dataclass(frozen=True)
class Places:
    """The paths for a contestant.

    Attributes:
        root: the image folder.
        data: the data that was prepared from it.
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
    """The transform from a Pillow image to a normalised tensor."""
    from torchvision import transforms

    first = transforms.RandomResizedCrop(case.size, SCALE, RATIO) if case.crop else transforms.Resize(case.size)
    return transforms.Compose(
        [first, transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )


def opened_rgb(data: bytes) -> Any:
    """The Pillow image of encoded bytes."""
    import io

    from PIL import Image

    return Image.open(io.BytesIO(data)).convert("RGB")


def torch_loader(dataset: Any, workers: int, **settings: Any) -> Epochs:
    """Torch's DataLoader, with persistent workers."""
    from torch.utils.data import DataLoader

    settings = {"batch_size": BATCH, "persistent_workers": workers > 0} | settings
    loader = DataLoader(dataset, num_workers=workers, **settings)
    return lambda _: loader
