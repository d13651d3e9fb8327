"""What a process holds in memory, as Linux counts it."""

import multiprocessing
from pathlib import Path


def memory_of(pid: int) -> dict[str, int]:
    """Return a process's proportional share (PSS) and what it alone has written, bytes.

    Pages of files that it maps are in its share, not in its own: the kernel may drop them.
    """
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        name, _, rest = line.partition(":")
        fields[name] = int(rest.split()[0]) * 1024
    return {"pss_bytes": fields["Pss"], "private_bytes": fields["Private_Dirty"]}


def memory_of_workers() -> list[dict[str, int]]:
    """Return that of this process's child processes."""
    return [memory_of(child.pid) for child in multiprocessing.active_children() if child.pid]
