"""Finding processes of a data folder, and measuring their processor time."""

import os
from pathlib import Path


def processes_of(data: Path) -> dict[int, str]:
    """The command lines of running processes that use a data folder, by process id."""
    mark = f"LANCE_PIPELINE_DATA={data}".encode()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # A zombie no longer has an environment.
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended, or belongs to someone else
            continue
    return found


def processor_seconds(process: int) -> float:
    """The processor time that a running process has used, in seconds."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
