"""Run `geoelle` with all arguments but the first, and write the most memory it held, in bytes, to that file.

    python benchmarks/peak.py PEAK.txt map --bbox ...
"""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

from geoelle.cli import main


def peak_bytes() -> int:
    """Return the peak of this process.

    On Linux `ru_maxrss` of a child begins at what its parent held when it was started, so the kernel's own high-water
    mark of this program is read there.
    """
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.M)):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    out, sys.argv = Path(sys.argv[1]), ["geoelle", *sys.argv[2:]]
    try:
        main()
    finally:
        out.write_text(str(peak_bytes()))
