"""The outcomes of a split's checks, with lists and pictures of the images at fault."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lance_pipeline.quality.evidence import evidence_sheet
from lance_pipeline.quality.findings import write_csv
from lance_pipeline.quality.split_checks import CheckTarget, Finding, SplitCheck


@dataclass(frozen=True)
class Outcome:
    """The outcome of one check of one split.

    Attributes:
        split: the name of the split.
        check: the check.
        passed: whether the check passed.
        blocks: whether a failure blocks everything downstream of the split.
        numbers: the summary of the finding.
        first: a description of the first row at fault; "" if there is no list.
        full_list: the CSV file with all rows at fault, if there are any.
        examples: a JPEG of some of the images at fault, if the rows are images.
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
        """The numbers, and the first row at fault."""
        numbers = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.numbers.items() if value)
        return f"{numbers}; the first: {self.first}" if self.first else numbers


def outcomes(target: CheckTarget, checks: Iterable[SplitCheck], reports: Path) -> Iterator[Outcome]:
    """Check a split; rows at fault are listed in ``<reports>/<split>_<check>.csv``.

    Args:
        target: the split.
        checks: the checks.
        reports: the folder for the lists.

    Raises:
        InputError: a list cannot be written.
    """
    for check in checks:
        yield _outcome(check, target, reports / f"{target.name}_{check.name}.csv")


def _outcome(check: SplitCheck, target: CheckTarget, path: Path) -> Outcome:
    finding = check.find(target)
    known = target.name, check, finding.passed, check.blocks(target.settings), finding.numbers
    if finding.rows is None or not finding.rows.num_rows:
        path.unlink(missing_ok=True)
        return Outcome(*known)
    write_csv(finding.rows, str(path))
    examples = evidence_sheet(finding.rows, target.splits) if finding.pictured else None
    return Outcome(*known, _first(finding), path, examples)


def _first(finding: Finding) -> str:
    row = finding.rows.slice(0, 1).to_pylist()[0] if finding.rows is not None else {}
    if "path" not in row:
        return f"{row['label']} with {row['count']} images"
    other = f" and {row['other_split']}/{row['other_path']}" if "other_path" in row else ""
    return f"{row['split']}/{row['path']}{other}"
