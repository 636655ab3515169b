"""Small Sentinel-2 scenes made of numbers, where a test wants them, and the catalogues that list them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pystac
import shapely

import scenes

__all__ = ["GSD_M", "SCENE_M", "make_scene", "save_catalog", "save_squares", "three_places"]

GSD_M = {"blue": 10, "green": 10, "red": 10, "nir": 10, "nir08": 20, "swir16": 20, "scl": 20}
"""The bands of the second probe that ships, and the mask."""
SCENE_M = 1920
SQUARE_M = 480


def make_scene(
    directory: Path, name: str, *, west: float, north: float, epsg: int = 32631, side_m: int = SCENE_M
) -> pystac.Item:
    """Write a scene of smooth ground with noise, all of it clear, and return its item."""
    item = scenes.bare_item(name, bounds=(west, north - side_m, west + side_m, north), epsg=epsg)
    rng = np.random.default_rng(list(name.encode()))
    for band, gsd_m in GSD_M.items():
        count = side_m // gsd_m
        slope = np.linspace(0, 900, count)
        pixels = 1200 + slope[:, None] + 0.5 * slope + rng.integers(0, 400, (count, count))
        if band == "scl":
            pixels = np.full((count, count), 4)
        kind = np.uint8 if band == "scl" else np.uint16
        path = directory / name / f"{band}.tif"
        scenes.write_cog(path, pixels.astype(kind), gsd_m=gsd_m, west=west, north=north, epsg=epsg)
        item.add_asset(band, pystac.Asset(href=str(path)))
    return item


def three_places(directory: Path) -> tuple[list[pystac.Item], Path]:
    """Return three scenes, each in a part of its own, and a polygon file with a square in each."""
    items, squares = [], []
    for number in range(3):
        west, north = 10_240 * (58 + number) + 2_000, 4_996_000
        items.append(make_scene(directory, f"S2B_31TF{'JKL'[number]}_20240601_0_L2A", west=west, north=north))
        corner = west + (SCENE_M - SQUARE_M) / 2, north - (SCENE_M + SQUARE_M) / 2 + 30  # off the edges of cells
        squares.append(shapely.box(*corner, corner[0] + SQUARE_M, corner[1] + SQUARE_M))
    return items, save_squares(directory / "squares.geojson", squares)


def save_squares(path: Path, squares: Iterable[shapely.Polygon], epsg: int = 32631) -> Path:
    """Save squares of a projected CRS as GeoJSON."""
    degrees = shapely.MultiPolygon([scenes.to_lonlat(square, epsg) for square in squares])
    path.write_text(shapely.to_geojson(degrees), "utf-8")
    return path


def save_catalog(path: Path, items: Iterable[pystac.Item], *, root: Path | None = None, base: str = "") -> Path:
    """Save items as an ItemCollection; with a root, their files are at a server's address `base` for it."""
    features = [item.to_dict(include_self_link=False) for item in items]
    for feature in features if root else ():
        for asset in feature["assets"].values():
            asset["href"] = f"{base}/{Path(asset['href']).relative_to(root).as_posix()}"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), "utf-8")
    return path
