"""Raw image folders to Lance datasets, a trained classifier and its evaluation, on Dagster."""

from typing import TYPE_CHECKING

from lance_pipeline.version import __version__

if TYPE_CHECKING:
    from lance_pipeline.orchestration.component import ImageClassifier

__all__ = ["ImageClassifier", "__version__"]


def __getattr__(name: str) -> object:
    # On demand, so that `import lance_pipeline.images` stays free of Dagster.
    if name == "ImageClassifier":
        from lance_pipeline.orchestration.component import ImageClassifier

        return ImageClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
