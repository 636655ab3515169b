"""Read the labelled imagery of the downstream test: what each patch shows, and the chip it is read from.

Land cover: TerraMesh, classes as TerraMind names them (no data, water, trees, flooded vegetation, crops, built area, bare
ground, snow and ice, clouds, rangeland = 0 ... 9). Flood: Sen1Floods11 by hand, -1 no data, 0 land, 1 water. Damage:
bark beetle in Czechia, a mask of 2020 and a map of the forest of 2022 (0 none, 1 to 3 kinds).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyproj
import rasterio
from rasterio.warp import transform

import nano_data
from geoelle.area import Addresses, Lattice
from geoelle.chips import Chips
from geoelle.holdout import blocks_of
from geoelle.models.nano import BANDS
from nano_data import NAMES, Scene

LAND_COVER = (
    "no data",
    "water",
    "trees",
    "flooded vegetation",
    "crops",
    "built",
    "bare",
    "snow",
    "clouds",
    "rangeland",
)
NOT_GROUND = (0, 8)
UNLABELLED = -1
PURITY = 0.75
MIN_PATCHES = 20
"""Patches of a class that a place needs to count for it; a class needs two such places."""
PATCH_PX, CHIP_PX, STEP_PX = 4, 32, 16
DAMAGE_BLOCK_M = 20_000.0
DAMAGE_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
DAMAGE_DAY = np.datetime64("2020-09-15", "D")
"""The middle of the month that the files give."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """One file with labels: `label_hw` is the class of each patch of its grid, -1 where it does not count.

    `place` is the ground that folds and intervals keep whole; sites may share it.
    """

    scene: Scene
    place: str
    label_hw: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What a task probe has to tell apart, where, and how much is drawn from each site at most."""

    name: str
    sensor: str
    classes: tuple[str, ...]
    sites: tuple[Site, ...]
    chips_per_site: int
    patches_per_site: int
    folds: int

    @property
    def places(self) -> int:
        return len({site.place for site in self.sites})


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """Patches drawn from one site: the chips they are read from, and where each lies in which.

    `origin_k2` (row, col) px of the chips; `chip_n` the chip of each patch; `at_n2` its row and column of patches in
    that chip; `label_n` its class.
    """

    origin_k2: np.ndarray
    chip_n: np.ndarray
    at_n2: np.ndarray
    label_n: np.ndarray


def tasks(root: Path) -> list[Task]:
    """Return the tasks whose imagery is in the folder, land cover by optical and by radar imagery apart."""
    return [land_cover(root, radar=False), land_cover(root, radar=True), flood(root), damage(root)]


def land_cover(root: Path, *, radar: bool) -> Task:
    """Return land cover of the TerraMesh sample; four scenes are left once snow is."""
    suffix = "S1RTC" if radar else "S2L2A"
    sites = []
    for scene in nano_data.load(root, "radar" if radar else "test"):
        if scene.path.startswith("train/terramind/") and scene.path.endswith(f"_{suffix}.tif"):
            classes_yx = _band(root / scene.path.replace(suffix, "LULC"))
            classes_yx[np.isin(classes_yx, NOT_GROUND)] = UNLABELLED
            label_hw = majority(classes_yx, len(LAND_COVER))
            sites.append(Site(scene=scene, place=scene.place, label_hw=label_hw))
    kept, classes = with_known_classes(sites, LAND_COVER)
    return Task(
        name="land cover",
        sensor="Sentinel-1" if radar else "Sentinel-2",
        classes=classes,
        sites=kept,
        chips_per_site=100,
        patches_per_site=600,
        folds=len({site.place for site in kept}),
    )


def flood(root: Path) -> Task:
    """Return water of Sen1Floods11; two scenes of one flood are one place."""
    sites = []
    for scene in nano_data.load(root, "radar"):
        if scene.path.startswith("change/sen1floods11/"):
            classes_yx = _band(root / scene.path.replace("_S1", "_label"))
            event = Path(scene.path).stem.partition("_")[0]
            sites.append(Site(scene=scene, place=event, label_hw=majority(classes_yx, 2)))
    kept, classes = with_known_classes(sites, ("land", "water"))
    return Task(
        name="flood",
        sensor="Sentinel-1",
        classes=classes,
        sites=kept,
        chips_per_site=60,
        patches_per_site=400,
        folds=len({site.place for site in kept}),
    )


def damage(root: Path) -> Task:
    """Return bark-beetle damage of 2020 against forest that stood in 2022; a place is a block of 20 km."""
    paths = sorted((root / "change" / "barkbeetle_cz").glob("*_202009.tif"))
    scenes = [damage_scene(root, path) for path in paths]
    blocks = blocks_of(np.array([scene.lonlat for scene in scenes]), DAMAGE_BLOCK_M)
    sites = []
    for path, scene, block in zip(paths, scenes, blocks, strict=True):
        beside = path.name.removesuffix("202009.tif")
        damaged_yx, forest_yx = (_band(path.with_name(f"{beside}{part}.tif")) > 0 for part in ("mask", "forest"))
        classes_yx = np.where(damaged_yx, 1, np.where(forest_yx, 0, UNLABELLED))
        sites.append(Site(scene=scene, place=f"block {block}", label_hw=majority(classes_yx, 2)))
    kept, classes = with_known_classes(sites, ("forest", "damaged"))
    return Task(
        name="bark-beetle damage",
        sensor="Sentinel-2",
        classes=classes,
        sites=kept,
        chips_per_site=6,
        patches_per_site=40,
        folds=5,
    )


def majority(classes_yx: np.ndarray, count: int, purity: float = PURITY) -> np.ndarray:
    """Return the class that at least `purity` of the pixels of each patch have, else -1; whole patches only.

    `classes_yx` holds 0 ... count - 1, or -1 where there is no label: those pixels count against every class.

    >>> majority(np.array([[1, 1, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1], [1, 0, -1, -1]]), 2).item()
    -1
    >>> majority(np.array([[1, 1, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1], [1, 1, -1, 1]]), 2).item()
    1
    """
    rows, cols = (side // PATCH_PX for side in classes_yx.shape)
    cut = classes_yx[: rows * PATCH_PX, : cols * PATCH_PX].reshape(rows, PATCH_PX, cols, PATCH_PX)
    share_khw = np.stack([(cut == k).mean(axis=(1, 3)) for k in range(count)])
    return np.where(share_khw.max(axis=0) >= purity, share_khw.argmax(axis=0), UNLABELLED)


def with_known_classes(sites: Sequence[Site], names: Sequence[str]) -> tuple[tuple[Site, ...], tuple[str, ...]]:
    """Drop classes that fewer than two places have 20 patches of, number the rest anew, drop sites left empty.

    A class of one place is an error by construction where that place is held out: no probe could know it.
    """
    places = sorted({site.place for site in sites})
    count_pk = np.zeros((len(places), len(names)), int)
    for site in sites:
        found = site.label_hw[site.label_hw >= 0]
        count_pk[places.index(site.place)] += np.bincount(found, minlength=len(names))
    known = np.flatnonzero((count_pk >= MIN_PATCHES).sum(axis=0) >= 2)
    anew = np.full(len(names) + 1, UNLABELLED)  # the last one stands for -1
    anew[known] = np.arange(len(known))
    numbered = [replace(site, label_hw=anew[site.label_hw]) for site in sites]
    return tuple(s for s in numbered if (s.label_hw >= 0).any()), tuple(names[k] for k in known)


def owners(length_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where chips begin along a side, and for each patch the number of the one that it lies most central in.

    Chips follow every 16 px; a last one ends within a patch of the edge. Of two equally central chips, the first.

    >>> [found.tolist() for found in owners(44)]
    [[0, 12], [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]]
    """
    last = (length_px - CHIP_PX) // PATCH_PX * PATCH_PX
    begin_o = np.unique([*range(0, last + 1, STEP_PX), last])
    centre_h = np.arange(length_px // PATCH_PX) * PATCH_PX + PATCH_PX / 2
    return begin_o, np.abs(centre_h[:, None] - (begin_o + CHIP_PX / 2)).argmin(axis=1)


def draw(site: Site, chips: int, patches: int) -> Drawn:
    """Draw at most so many chips that hold labelled patches, and at most so many of those patches; seeded by the path.

    Chips with nodata are left out. A drawn patch is read from its most central chip.
    """
    rng = np.random.default_rng(zlib.crc32(site.scene.path.encode()))
    (rows, row_of), (cols, col_of) = (owners(side) for side in site.scene.pixels_cyx.shape[1:])
    patch_n2 = np.argwhere(site.label_hw >= 0)
    owner_n = row_of[patch_n2[:, 0]] * len(cols) + col_of[patch_n2[:, 1]]
    finite_yx = np.isfinite(site.scene.pixels_cyx).all(axis=0)
    whole = [
        o
        for o in np.unique(owner_n)
        if finite_yx[rows[o // len(cols)] :, cols[o % len(cols)] :][:CHIP_PX, :CHIP_PX].all()
    ]
    chosen = _thinned(np.array(whole, int), chips, rng)
    taken = _thinned(np.flatnonzero(np.isin(owner_n, chosen)), patches, rng)
    used, chip_n = np.unique(owner_n[taken], return_inverse=True)
    origin_k2 = np.stack([rows[used // len(cols)], cols[used % len(cols)]], axis=1)
    return Drawn(
        origin_k2=origin_k2,
        chip_n=chip_n,
        at_n2=patch_n2[taken] - origin_k2[chip_n] // PATCH_PX,
        label_n=site.label_hw[tuple(patch_n2[taken].T)],
    )


def chips_at(scene: Scene, origin_k2: np.ndarray) -> Chips:
    """Cut chips whose upper left pixels are `origin_k2`, multiples of 4, addressed by the UTM cell near each."""
    lon, lat = scene.lonlat
    epsg = (32600 if lat >= 0 else 32700) + int((lon + 180) // 6) + 1
    lattice = Lattice(epsg=epsg, gsd_m=10, size_px=CHIP_PX, stride_px=PATCH_PX)
    x, y = pyproj.Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
    _, height, width = scene.pixels_cyx.shape
    corner = np.array([-(y + height * 5), x - width * 5]) // lattice.cell_m
    rows, cols = (corner.astype(int) + origin_k2 // PATCH_PX).T
    addresses = Addresses(lattice=lattice, rows=rows, cols=cols)
    cut = [scene.pixels_cyx[:, r : r + CHIP_PX, c : c + CHIP_PX] for r, c in origin_k2]
    return Chips(
        pixels_btcyx=np.stack(cut)[:, None].astype(np.float32),
        addresses=addresses,
        bands=scene.bands,
        times_bt=np.full((len(cut), 1), scene.date.astype("datetime64[s]")),
        lonlat_b2=addresses.lonlat_n2,
        items=((Path(scene.path).stem,),) * len(cut),
        sensor=scene.sensor,
    )


def damage_scene(root: Path, path: Path) -> Scene:
    """Read one file of the bark-beetle places, dated September 2020; NaN where a band has no data."""
    order = [DAMAGE_BANDS.index(next(b for b, name in NAMES.items() if name == band)) + 1 for band in BANDS]
    with rasterio.open(path) as file:
        pixels = file.read(order).astype(np.float32) / 10_000
        nodata_yx = (file.read() == 0).any(axis=0)
        west, south, east, north = file.bounds
        (lon,), (lat,) = transform(file.crs, "EPSG:4326", [(west + east) / 2], [(south + north) / 2])
    pixels[:, nodata_yx] = np.nan
    return Scene(
        place=path.stem,
        source="bark beetle, Czechia",
        level="L2A",
        path=path.relative_to(root).as_posix(),
        lonlat=(lon, lat),
        bands=BANDS,
        pixels_cyx=pixels,
        date=DAMAGE_DAY,
        sensor="sentinel-2-l2a",
    )


def _band(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1).astype(int)


def _thinned(rows: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))
