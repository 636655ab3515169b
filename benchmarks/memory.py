"""How much memory a map takes, and whether that grows with the area."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import mosaic
from timing import Row, Section

from geoelle.area import Area

FEW_ARENAS = "MALLOC_ARENA_MAX=2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one map took."""

    megabytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class _Map:
    """A map to be made: its ground, about so many square kilometres of it, further options, a variable to set."""

    ground: mosaic.Ground
    km2: float
    more: tuple[str, ...] = ()
    setting: str = ""

    @property
    def bbox(self) -> str:
        return self.ground.bbox(self.km2)

    @property
    def area_km2(self) -> float:
        return Area.parse(bbox=self.bbox, dates=mosaic.DATES).km2


def measure(repeats: int, *, quick: bool) -> Section:
    """Map a small and a large area through the command line, each in a process of its own."""
    small_km2, large_km2, copies = (10, 40, (1, 2)) if quick else (100, 1_500, (2, 3))
    with TemporaryDirectory() as folder:
        scene, wide = mosaic.demo(), mosaic.side_by_side(Path(folder) / "mosaic", *copies)
        large = f"{large_km2:,} km² of {copies[0] * copies[1]} copies of it"
        maps = {
            "libraries and model (--dry-run)": _Map(scene, small_km2, more=("--dry-run",)),
            f"{small_km2} km² of the demo scene": _Map(scene, small_km2),
            large: _Map(wide, large_km2),
            f"{large}, {FEW_ARENAS}": _Map(wide, large_km2, setting=FEW_ARENAS),
        }
        spent = {name: [_run(each, Path(folder)) for _ in range(repeats)] for name, each in maps.items()}
    names = list(maps)
    memory = {name: Row(name=name, unit="MB at the peak", values=[s.megabytes for s in spent[name]]) for name in names}
    base = memory[names[1]].median
    speed = [
        Row(name=name, unit="km²/s, start to finish", values=[maps[name].area_km2 / s.seconds for s in spent[name]])
        for name in names[1:3]
    ]
    return Section(
        title="Memory and a whole map",
        text=(
            "`geoelle map` in a process of its own, from the search to the last file, on all cores. The large area "
            "is a mosaic of copies of the demo scene whose geotransforms are moved, so that real pixels lie side by "
            "side. Whatever the area, a window has at most 64 x 64 chips, two are held, and chips are cut 1,024 at "
            "a time. The table of vectors grows with it, by about 1 kB a cell, and so does what the allocator keeps "
            "for threads that have ended: less with `MALLOC_ARENA_MAX=2` in the environment (Linux)."
        ),
        ratio="times the small map",
        rows=[*(replace(row, ratio=row.median / base) for row in memory.values()), *speed],
    )


def _run(what: _Map, folder: Path) -> Spent:
    peak = folder / "peak.txt"
    child = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("peak.py")), str(peak)]
    words = [f"--bbox={what.bbox}", "--dates", mosaic.DATES, "--catalog", what.ground.catalog]
    out = ["-o", mkdtemp(dir=folder)]  # a run of its own: one that is there would be resumed
    name, _, value = what.setting.partition("=")
    world = {**os.environ, name: value} if name else None
    began = time.perf_counter()
    done = subprocess.run(
        [*child, "map", *words, *out, *what.more], capture_output=True, text=True, check=False, env=world
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"geoelle map failed: {done.stderr.strip().splitlines()[-1]}")
    return Spent(megabytes=int(peak.read_text()) / 1e6, seconds=seconds)
