"""Read the series that false alarms and power of Delta are measured on: pixels of one ground at many dates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio

from geoelle.area import Area
from geoelle.catalog import search
from geoelle.chips import Chips
from geoelle.lattice import Addresses, Lattice
from geoelle.looks import plan_looks
from geoelle.read import read_window
from nano_data import NAMES
from nano_samples import BAND_SETS

CHIP_PX, PATCH_PX = 32, 4
STRIDES = {"chips": 8, "patches": 16}
"""Pixels between chips, by the unit that is scored."""
YEARS = 4
"""A calendar month needs dates in so many years."""
FOREST = {"bbox": "22.1449392,45.1996179,22.1594858,45.2099579", "dates": "2015/2021"}
FOREST_EPSG = 3035
SQUARE_PX = 256
SQUARE_AT = (486_950.0, 5_208_720.0)
"""Upper left corner, EPSG:26914 m, of the square of that side in the middle of the flights."""
FINE_M = 5
SEASON_DAYS = 22.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Image:
    """One date of a ground: `pixels_cyx` float32, NaN where not seen; `corner` its upper left pixel on the lattice."""

    day: np.datetime64
    pixels_cyx: np.ndarray
    bands: tuple[str, ...]
    epsg: int
    corner: tuple[int, int]
    sensor: str

    def chips(self, unit: str) -> Chips:
        """Return all whole chips of the unit's stride, row by row, with those that are not valid."""
        stride = STRIDES[unit]
        cut = np.lib.stride_tricks.sliding_window_view(self.pixels_cyx, (CHIP_PX, CHIP_PX), axis=(1, 2))
        cut = cut[:, ::stride, ::stride]
        rows, cols = (index.ravel() for index in np.indices(cut.shape[1:3]))
        lattice = Lattice(epsg=self.epsg, gsd_m=10, size_px=CHIP_PX, stride_px=stride)
        row0, col0 = (pixel // stride for pixel in self.corner)
        addresses = Addresses(lattice=lattice, rows=rows + row0, cols=cols + col0)
        return Chips(
            pixels_btcyx=np.ascontiguousarray(cut.transpose(1, 2, 0, 3, 4)).reshape(len(rows), 1, -1, CHIP_PX, CHIP_PX),
            addresses=addresses,
            times_bt=np.full((len(rows), 1), self.day.astype("datetime64[s]")),
            lonlat_b2=addresses.lonlat_n2,
            bands=self.bands,
            items=((str(self.day),),) * len(rows),
            sensor=self.sensor,
        )

    @property
    def year(self) -> int:
        return int(str(self.day)[:4])

    @property
    def month(self) -> int:
        return int(str(self.day)[5:7])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """Images of one ground by season, each season a year at most once, the earliest first."""

    name: str
    place: str
    seasons: dict[str, tuple[Image, ...]]
    credit: str

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(image for images in self.seasons.values() for image in images)

    def of_bands(self, bands: tuple[str, ...]) -> Series:
        """Return the series with some of its bands."""
        at = [self.images[0].bands.index(band) for band in bands]
        seasons = {
            season: tuple(replace(image, pixels_cyx=image.pixels_cyx[at], bands=bands) for image in images)
            for season, images in self.seasons.items()
        }
        return replace(self, seasons=seasons)


def romania() -> Series:
    """Return the forest of the demo catalogue, by calendar month, of months with dates in four years."""
    images = forest()
    months = {month: tuple(i for i in images if i.month == month) for month in range(1, 13)}
    seasons = {
        f"{np.datetime64(f'2000-{m:02d}').item():%B}": dates for m, dates in months.items() if len(dates) >= YEARS
    }
    return Series(
        name="romania", place="forest, Romania", seasons=seasons, credit="EUPL-1.2, JRC; Copernicus Sentinel data"
    )


def forest() -> list[Image]:
    """Return all dates of the forest of the demo catalogue, by day."""
    return sorted(_items(search(Area.parse(**FOREST), catalog="demo")), key=lambda image: image.day)


def _items(found: object) -> Iterator[Image]:
    """Read every date on the ground that all whole chips lie in."""
    area = Area.parse(**FOREST)
    lattice = Lattice(epsg=FOREST_EPSG, gsd_m=10, size_px=CHIP_PX, stride_px=16)
    addresses = lattice.select(area.geometry)
    box, bands = lattice.union_geobox(addresses.rows, addresses.cols), BAND_SETS["6"]
    dates = [
        read_window(plan_looks([item], area.geometry), box, found.sensor, bands, sign=found.access).isel(time=0)
        for item in found.items
    ]
    seen_yx = np.any([np.isfinite(date.values).all(axis=0) for date in dates], axis=0)
    top, bottom, left, right = _whole(seen_yx, 16)
    corner = (int(addresses.rows.min()) * 16 + top, int(addresses.cols.min()) * 16 + left)
    for date in dates:
        yield Image(
            day=date["time"].values.astype("datetime64[D]"), pixels_cyx=date.values[:, top:bottom, left:right], bands=bands,
            epsg=FOREST_EPSG, corner=corner, sensor=found.sensor.name,
        )  # fmt: skip


def _whole(seen_yx: np.ndarray, step: int) -> tuple[int, int, int, int]:
    """Return the rows and columns of the seen rectangle, in whole steps."""
    rows, cols = (np.flatnonzero(seen_yx.any(axis=axis)) for axis in (1, 0))
    first = [-(-int(at.min()) // step) * step for at in (rows, cols)]
    last = [(int(at.max()) + 1) // step * step for at in (rows, cols)]
    return first[0], last[0], first[1], last[1]


def dakota(root: Path) -> Series:
    """Return the flights over the prairie that are of one season, the middle square, 2 x 2 px averaged."""
    paths = sorted((root / "change" / "naip_northdakota").glob("*.tif"))
    days = np.array([np.datetime64(f"{p.stem[-8:-4]}-{p.stem[-4:-2]}-{p.stem[-2:]}") for p in paths])
    of_year = (days - days.astype("datetime64[Y]").astype("datetime64[D]")).astype(int)
    near = np.abs(of_year - np.median(of_year)) <= SEASON_DAYS
    images = tuple(_flight(path, day) for path, day, kept in zip(paths, days, near, strict=True) if kept)
    return Series(
        name="dakota", place="prairie, North Dakota", seasons={"summer": images}, credit="NAIP, USDA, public domain"
    )


def _flight(path: Path, day: np.datetime64) -> Image:
    """Read the square around the middle that all flights share; they lie up to 2.5 m beside each other."""
    with rasterio.open(path) as file:
        red, green, blue, nir = file.read().astype(np.float32) / 255
        x, y = SQUARE_AT
        top, left = round((file.bounds.top - y) / FINE_M), round((x - file.bounds.left) / FINE_M)
        epsg = file.crs.to_epsg()
    fine_cyx = np.stack([blue, green, red, nir])[:, top : top + 2 * SQUARE_PX, left : left + 2 * SQUARE_PX]
    pixels = fine_cyx.reshape(4, SQUARE_PX, 2, SQUARE_PX, 2).mean(axis=(2, 4))
    corner = (-round(y / 10), round(x / 10))
    return Image(day=day, pixels_cyx=pixels, bands=BAND_SETS["4"], epsg=epsg, corner=corner, sensor="naip")


def belgium(root: Path) -> Series:
    """Return the monthly composites of fields, by calendar month, of months that two years have."""
    path = root / "change" / "worldcereal_belgium" / "presto_worldcereal_be_20m.tif"
    with rasterio.open(path) as file:
        values, names, epsg = file.read(), file.descriptions, file.crs.to_epsg()
        corner = (-int(file.bounds.top // 10), int(file.bounds.left // 10))
    images = []
    for day in sorted({name[:10] for name in names}):
        at = [names.index(f"{day}_{b}") for b in ("B02", "B03", "B04", "B08")]
        number_cyx = values[at][:, :48, :48].astype(np.float32)
        pixels = np.where(number_cyx == 65535, np.nan, number_cyx / 10_000)
        images.append(Image(day=np.datetime64(day), pixels_cyx=pixels, bands=tuple(NAMES[b] for b in ("B02", "B03", "B04", "B08")),
                            epsg=epsg, corner=corner, sensor="sentinel-2-l2a"))  # fmt: skip
    return Series(name="belgium", place="fields, Belgium", seasons={i.day.item().strftime("%Y-%m"): (i,) for i in images},
                  credit="WorldCereal; Copernicus Sentinel data")  # fmt: skip
