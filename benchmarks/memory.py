"""How much memory a map takes, and whether that grows with the area."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import mosaic
from timing import Row, Section

from geoelle.area import Area


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one map took."""

    megabytes: float
    seconds: float


def measure(repeats: int, *, quick: bool) -> Section:
    """Map a small and a large area through the command line, each in a process of its own."""
    small_km2, large_km2, copies = (10, 40, (1, 2)) if quick else (100, 1_500, (2, 3))
    with TemporaryDirectory() as folder:
        scene, wide = mosaic.demo(), mosaic.side_by_side(Path(folder) / "mosaic", *copies)
        plans = {
            "libraries and model (--dry-run)": (scene, small_km2, ["--dry-run"]),
            f"{small_km2} km² of the demo scene": (scene, small_km2, []),
            f"{large_km2:,} km² of {copies[0] * copies[1]} copies of it": (wide, large_km2, []),
        }
        spent = {
            name: [_map(Path(folder), where, km2, more) for _ in range(repeats)]
            for name, (where, km2, more) in plans.items()
        }
        sizes = {name: Area.parse(bbox=w.bbox(km2), dates=mosaic.DATES).km2 for name, (w, km2, _) in plans.items()}
    names = list(plans)
    memory = [Row(name=name, unit="MB at the peak", values=[s.megabytes for s in spent[name]]) for name in names]
    base = memory[1].median
    rows = [Row(name=r.name, unit=r.unit, values=r.values, ratio=r.median / base) for r in memory]
    rows += [
        Row(name=name, unit="km²/s, start to finish", values=[sizes[name] / s.seconds for s in spent[name]])
        for name in names[1:]
    ]
    return Section(
        title="Memory and a whole map",
        text=(
            "`geoelle map` in a process of its own, from the search to the last file, on all cores. The large area "
            "is a mosaic of copies of the demo scene whose geotransforms are moved, so that real pixels lie side by "
            "side. Windows and chips are read part by part; the table of vectors, and whatever the allocator keeps, "
            "grow with the area."
        ),
        ratio="times the small map",
        rows=rows,
    )


def _map(folder: Path, where: mosaic.Ground, km2: float, more: list[str]) -> Spent:
    peak = folder / "peak.txt"
    child = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("peak.py")), str(peak)]
    where_and_when = [f"--bbox={where.bbox(km2)}", "--dates", mosaic.DATES, "--catalog", where.catalog]
    out = ["-o", mkdtemp(dir=folder)]  # an own run would be resumed, its parts kept
    began = time.perf_counter()
    done = subprocess.run([*child, "map", *where_and_when, *out, *more], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"geoelle map failed: {done.stderr.strip().splitlines()[-1]}")
    return Spent(megabytes=int(peak.read_text()) / 1e6, seconds=time.perf_counter() - began)
