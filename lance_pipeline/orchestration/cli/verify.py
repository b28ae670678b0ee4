"""The command ``verify``: compare stored splits with their digests, and repair them."""

import json
import shlex
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

from lance_pipeline.display import printable
from lance_pipeline.errors import DamagedError, InputError
from lance_pipeline.orchestration.dataset import SPLITS
from lance_pipeline.orchestration.resources import default_resources
from lance_pipeline.orchestration.runtime.instance import prepare_instance

if TYPE_CHECKING:
    from lance_pipeline.storage.verification import Verification


def verify(target: str, *, repair: bool) -> bool:
    """Read all rows of a dataset's splits, or of one split, and print any damage.

    Args:
        target: the name of a dataset, or the path or URI of a split.
        repair: whether to repair the damage: splits of a named dataset from their image files, by materializing them; a
            split given by its URI from its older versions.

    Returns:
        Whether no damage is left.

    Raises:
        InputError: there is no such dataset.
    """
    uris = _splits_of(target)
    if not uris:
        return _intact(target) or (repair and _restored(target))
    damaged = [split for split, uri in uris.items() if not _intact(uri)]
    if not damaged:
        return True
    command = _repair_command(target, damaged)
    if not repair:
        print(f"\nTo repair from the image files:  python -m lance_pipeline verify {target} --repair")
        return False
    print(f"\n{shlex.join(command)}", flush=True)
    if subprocess.run([sys.executable, "-m", *command], check=False).returncode:  # noqa: S603
        print("\nWhere the image files are gone, restore from older versions instead:")
        for split in damaged:
            print(f"  python -m lance_pipeline verify {shlex.quote(uris[split])} --repair")
        return False
    repaired = [_intact(uris[split]) for split in damaged]
    return all(repaired)


def _splits_of(target: str) -> dict[str, str]:
    """The splits of the named dataset, by their URIs; empty if ``target`` is a path or URI."""
    from lance_pipeline.storage.tables import is_table

    if "/" in target or target.endswith(".lance"):
        return {}
    store = default_resources()["lance_store"]
    uris = {split: store.dataset_uri(f"{target}_{split}") for split in SPLITS}
    there = {split: uri for split, uri in uris.items() if is_table(uri)}
    if not there:
        raise InputError(
            f"there are no Lance datasets of {target!r}; looked for {', '.join(uris.values())}. Give the name of a "
            "dataset that was materialized, or the path of a Lance dataset."
        )
    return there


def _intact(uri: str) -> bool:
    """Verify one split and print the result; returns whether it is intact."""
    from lance_pipeline.storage.tables import open_table
    from lance_pipeline.storage.verification import verify_rows

    try:
        found = verify_rows(open_table(uri))
    except DamagedError as error:
        print(f"{uri}\n  {error}")
        return False
    rows = len(found.intact) + len(found.damaged)
    outcome = "intact" if found.passed else f"{len(found.damaged)} damaged"
    print(f"{uri}, version {found.version}: {rows} rows, {outcome}")
    _print_damage(found)
    return found.passed


def _print_damage(found: "Verification") -> None:
    if found.note:
        print(f"  {found.note}")
    for row in found.damaged:
        if row.path:
            print(f"  {printable(row.path)}: {row.detail}")
    for detail, count in Counter(row.detail for row in found.damaged if not row.path).items():
        print(f"  {count} rows of unknown path: {detail}")


def _restored(uri: str) -> bool:
    from lance_pipeline.ingest.repair import repair_from_versions

    done = repair_from_versions(uri)
    print(f"{uri}, now version {done.version}: {done.damaged - len(done.lost)} of {done.damaged} rows restored")
    for row in done.lost:
        print(f"  lost: {printable(row.path) or '(unknown path)'}")
    if done.same:
        print("  The rows are those that were ingested, by their fingerprint.")
    return done.same


def _repair_command(dataset: str, splits: list[str]) -> list[str]:
    prepare_instance()
    selection = " or ".join(f'key:"{dataset}/lance_{split}"' for split in splits)
    config = {"ops": {f"{dataset}__lance_splits": {"config": {"repair": True}}}}
    return [
        *("dagster", "asset", "materialize", "-m", "lance_pipeline.definitions"),
        *("--select", selection, "--config-json", json.dumps(config)),
    ]
