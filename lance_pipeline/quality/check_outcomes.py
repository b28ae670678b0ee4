"""The outcomes of a split's checks, with the lists and the pictures that show what is wrong."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lance_pipeline.quality.evidence import evidence_sheet
from lance_pipeline.quality.findings import write_csv
from lance_pipeline.quality.split_checks import Examined, Finding, SplitCheck


@dataclass(frozen=True)
class Outcome:
    """What one check found in one split.

    Attributes:
        split: the name of the split.
        check: the check.
        passed: whether nothing is wrong.
        blocks: whether nothing may be built on a split that fails it.
        numbers: what was found, summed up.
        first: the first of what is wrong, for people; "" where there is no list.
        full_list: the CSV file with all that is wrong, if there is any.
        examples: a JPEG of some of the images, if what is wrong are images.
    """

    split: str
    check: SplitCheck
    passed: bool
    blocks: bool
    numbers: dict[str, Any]
    first: str = ""
    full_list: Path | None = None
    examples: bytes | None = None

    @property
    def summary(self) -> str:
        """How much is wrong, and the first of it."""
        numbers = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.numbers.items() if value)
        return f"{numbers}; the first: {self.first}" if self.first else numbers


def outcomes(examined: Examined, checks: Iterable[SplitCheck], reports: Path) -> Iterator[Outcome]:
    """Check a split; what is wrong is listed in ``<reports>/<split>_<check>.csv``.

    Args:
        examined: the split.
        checks: what to check.
        reports: the folder of lists.

    Raises:
        InputError: a list cannot be written.
    """
    for check in checks:
        yield _outcome(check, examined, reports / f"{examined.name}_{check.name}.csv")


def _outcome(check: SplitCheck, examined: Examined, path: Path) -> Outcome:
    finding = check.find(examined)
    known = examined.name, check, finding.passed, check.blocks(examined.settings), finding.numbers
    if finding.rows is None or not finding.rows.num_rows:
        path.unlink(missing_ok=True)
        return Outcome(*known)
    write_csv(finding.rows, str(path))
    examples = evidence_sheet(finding.rows, examined.splits) if finding.pictured else None
    return Outcome(*known, _first(finding), path, examples)


def _first(finding: Finding) -> str:
    row = finding.rows.slice(0, 1).to_pylist()[0] if finding.rows is not None else {}
    if "path" not in row:
        return f"{row['label']} with {row['count']} images"
    other = f" and {row['other_split']}/{row['other_path']}" if "other_path" in row else ""
    return f"{row['split']}/{row['path']}{other}"
