"""Load the imagery of docs/nano-data.json as reflectance arrays, and that of docs/radar-data.json as decibels, one a file."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import rasterio

from geoelle.area import Addresses, Lattice
from geoelle.chips import Chips
from geoelle.models.nano import BANDS

NAMES = {
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge1",
    "B06": "rededge2",
    "B07": "rededge3",
    "B08": "nir",
    "B8A": "nir08",
    "B11": "swir16",
    "B12": "swir22",
}
UNRECORDED = {"dsen2_33UUB": (12.6, 52.7), "dsen2_49JGM": (112.6, 23.9)}
"""Rough centres read from the name of the tile, for files without georeference."""
DOCS = Path(__file__).parents[1] / "docs"
RADAR = ("vv", "vh")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One file: `pixels_cyx` float32 reflectance, NaN = nodata, bands in the order of `BANDS`; or dB of vv and vh.

    `date` is the day of acquisition, NaT where the file does not say; `sensor` is a name of catalogs/.
    """

    place: str
    source: str
    level: str
    path: str
    lonlat: tuple[float, float] | None
    bands: tuple[str, ...]
    pixels_cyx: np.ndarray
    date: np.datetime64
    sensor: str

    def addressed(self, stride: int = 16, cap: int = 10**6, seed: int = 0, size: int = 32) -> Chips:
        """Return at most `cap` overlapping chips without nodata, addressed by the UTM cell nearest to each.

        A file's own grid may lie between the lattice's lines or in degrees; the address then names the place to within a
        cell, which is what folds and mask seeds need. Pixels are never resampled.
        """
        lon, lat = self.lonlat or UNRECORDED[self.place]
        epsg = (32600 if lat >= 0 else 32700) + int((lon + 180) // 6) + 1
        lattice = Lattice(epsg=epsg, gsd_m=10, size_px=size, stride_px=stride)
        x, y = pyproj.Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
        _, height, width = self.pixels_cyx.shape
        windows = np.lib.stride_tricks.sliding_window_view(self.pixels_cyx, (size, size), axis=(1, 2))[
            :, ::stride, ::stride
        ]
        rows, cols = (index.ravel() for index in np.indices(windows.shape[1:3]))
        flat = windows.transpose(1, 2, 0, 3, 4).reshape(len(rows), 1, -1, size, size)
        keep = np.flatnonzero(np.isfinite(flat).all(axis=(1, 2, 3, 4)))
        if len(keep) > cap:
            keep = np.sort(np.random.default_rng(seed).choice(keep, cap, replace=False))
        row0, col0 = int(-(y + height * 5) // lattice.cell_m), int((x - width * 5) // lattice.cell_m)
        addresses = Addresses(lattice=lattice, rows=rows[keep] + row0, cols=cols[keep] + col0)
        return Chips(
            pixels_btcyx=np.ascontiguousarray(flat[keep]),
            addresses=addresses,
            bands=self.bands,
            times_bt=np.full((len(keep), 1), self.date.astype("datetime64[s]")),
            lonlat_b2=addresses.lonlat_n2,
            items=((Path(self.path).stem,),) * len(keep),
            sensor=self.sensor,
        )

    def chips(self, size: int, cap: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return at most `cap` non-overlapping chips without nodata, (n, c, y, x), and their (row, col)."""
        c, height, width = self.pixels_cyx.shape
        rows, cols = height // size, width // size
        cut = self.pixels_cyx[:, : rows * size, : cols * size].reshape(c, rows, size, cols, size)
        flat = cut.transpose(1, 3, 0, 2, 4).reshape(rows * cols, c, size, size)
        index = np.flatnonzero(np.isfinite(flat).all(axis=(1, 2, 3)))
        if len(index) > cap:
            index = np.sort(np.random.default_rng(seed).choice(index, cap, replace=False))
        return flat[index], np.stack(np.unravel_index(index, (rows, cols)), axis=1)


def load(root: Path, which: str) -> list[Scene]:
    """Return the scenes of one set: `pretrain`, `fit` or `test` of docs/nano-data.json, or `radar`.

    Refuses a file whose bytes are not those of the data card.
    """
    card = DOCS / ("radar-data.json" if which == "radar" else "nano-data.json")
    return [
        _radar(root, row) if which == "radar" else _optical(root, row)
        for row in json.loads(card.read_text())["files"]
        if row.get("set", "radar") == which
    ]


def _optical(root: Path, row: dict[str, Any]) -> Scene:
    path = _checked(root, row)
    wanted = sorted(
        ((BANDS.index(NAMES[b]), i + 1) for i, b in enumerate(row["bands"]) if b in NAMES),
    )
    with rasterio.open(path) as file:
        digital = file.read([i for _, i in wanted]).astype(np.float32)
        nodata, date = file.nodata, _date(file.tags())
    missing = (digital == 0).all(axis=0) if nodata is None else (digital == nodata).any(axis=0)
    pixels = (digital - row["offset_dn"]) / 10000
    pixels[:, missing] = np.nan
    return Scene(
        place=row["place"],
        source=row["source"],
        level=row["level"],
        path=row["path"],
        lonlat=tuple(row["lonlat"]) if row["lonlat"] else None,
        bands=tuple(BANDS[b] for b, _ in wanted),
        pixels_cyx=pixels,
        date=date,
        sensor=f"sentinel-2-{row['level'].lower()}",
    )


def _radar(root: Path, row: dict[str, Any]) -> Scene:
    with rasterio.open(_checked(root, row)) as file:
        pixels, date = file.read([1, 2]).astype(np.float32), _date(file.tags())
    pixels[:, ~np.isfinite(pixels).all(axis=0) | (pixels == 0).all(axis=0)] = np.nan
    return Scene(
        place=row["place"],
        source=row["source"],
        level=row["level"],
        path=row["path"],
        lonlat=tuple(row["lonlat"]),
        bands=RADAR,
        pixels_cyx=pixels,
        date=date,
        sensor="sentinel-1-rtc",
    )


def _checked(root: Path, row: dict[str, Any]) -> Path:
    path = root / row["path"]
    if hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
        raise SystemExit(f"{path} is not the file of the data card; fetch it again")
    return path


def _date(tags: dict[str, str]) -> np.datetime64:
    """Return the day that a file was acquired; NaT where it gives none, or a span of them."""
    found = re.fullmatch(r"(\d{4}-\d{2}-\d{2})(T[\d:.]+Z?)?", tags.get("ACQUISITION_DATETIME", "").strip())
    return np.datetime64(found[1] if found else "NaT", "D")
