"""Which processes belong to whom, and what they use."""

import os
from pathlib import Path


def processes_of(data: Path) -> dict[int, str]:
    """The command lines of the living processes that work on a data folder, by process id."""
    mark = f"LANCE_PIPELINE_DATA={data}".encode()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # One that has ended, and that nobody has waited for yet, has no environment any more.
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended, or belongs to someone else
            continue
    return found


def processor_seconds(process: int) -> float:
    """How long a living process has used a processor."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
