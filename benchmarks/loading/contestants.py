"""All loaders: ours, the peers, and the bounds."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from benchmarks.loading import native, own, plain, streams
from benchmarks.loading.cases import WORKERS, Case, Opener, Places

_ALL, _CROPS = ("png", "jpeg", "large"), ("jpeg", "large")
IDLE = "idle"


class _Prepare(Protocol):
    def __call__(self, case: Case, root: str, out: str) -> None: ...


@dataclass(frozen=True)
class Contestant:
    """One loader.

    Attributes:
        title: the title for tables.
        open: does its imports, then opens it.
        role: ``ours``, ``peer`` or ``bound``.
        data: the name of its prepared data; loaders can share data.
        prepare: writes the data; None if it reads the image folder.
        cases: the cases that it takes part in.
        own_environment: whether it needs the peers' environment.
        compiled: the package that is compiled for it.
        decodes: whether it decodes encoded files in every epoch.
        caches: whether it keeps a cache for a second opening.
    """

    title: str
    open: Callable[[Case, Places], Opener]
    role: str = "peer"
    data: str = ""
    prepare: _Prepare | None = None
    cases: tuple[str, ...] = _ALL
    own_environment: bool = True
    compiled: str = ""
    decodes: bool = True
    caches: bool = False


_OURS = partial(Contestant, role="ours", data="ours", prepare=own.prepare, own_environment=False)
_ARTICLE = partial(Contestant, data="article", prepare=plain.prepare_article, own_environment=False)
_FOLDER = partial(Contestant, own_environment=False)
_BOUND = partial(Contestant, role="bound", own_environment=False)

CONTESTANTS: dict[str, Contestant] = {
    "cached": _OURS(
        "ours, cached pixels", partial(own.loader, cached=True), cases=("png",), decodes=False, caches=True
    ),
    "cached256": _OURS(
        "ours, cached at 256",
        partial(own.loader, cached=True, cache_size=256),
        cases=_CROPS,
        decodes=False,
        caches=True,
    ),
    "streamed": _OURS("ours, streamed", partial(own.loader, cached=False)),
    "deleted": _OURS(
        "ours, streamed, a fifth of the rows deleted",
        partial(own.loader, cached=False),
        data="deleted",
        prepare=own.prepare_deleted,
        cases=("png",),
    ),
    "article": _ARTICLE("the article's way", partial(plain.article_loader, workers=0)),
    "article2": _ARTICLE("the article's way, 2 workers", partial(plain.article_loader, workers=WORKERS)),
    "imagefolder": _FOLDER("ImageFolder", partial(plain.image_folder, workers=0)),
    "imagefolder2": _FOLDER("ImageFolder, 2 workers", partial(plain.image_folder, workers=WORKERS)),
    "ffcv": Contestant(
        "FFCV", native.ffcv_loader, data="ffcv", prepare=partial(native.prepare_ffcv, shrunk=False), compiled="ffcv"
    ),
    "ffcv256": Contestant(
        "FFCV, pixels at 256",
        native.ffcv_loader,
        data="ffcv256",
        prepare=partial(native.prepare_ffcv, shrunk=True),
        cases=_CROPS,
        compiled="ffcv",
        decodes=False,
    ),
    "webdataset": Contestant(
        "WebDataset", plain.webdataset_loader, data="webdataset", prepare=plain.prepare_webdataset
    ),
    "datasets": Contestant(
        "Hugging Face datasets", plain.hugging_face_loader, data="datasets", prepare=plain.prepare_hugging_face
    ),
    "mosaicml": Contestant(
        "MosaicML Streaming", streams.mosaicml_loader, data="mosaicml", prepare=streams.prepare_mosaicml
    ),
    "litdata": Contestant("LitData", streams.litdata_loader, data="litdata", prepare=streams.prepare_litdata),
    "lancedb": Contestant("LanceDB", streams.lancedb_loader, data="lancedb", prepare=streams.prepare_lancedb),
    "spdl": Contestant("SPDL", native.spdl_loader),
    "kernel": _BOUND("bound: decode, crop and resize from memory", own.kernel, cases=_CROPS),
    "decode": _BOUND("bound: decode from memory", own.decode, cases=_CROPS),
    IDLE: _BOUND("a process with torch", own.idle),
}
