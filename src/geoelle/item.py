"""Describe an output as a STAC item: where, when, which files, from which source items.

Hrefs to the files are relative, so a run directory can be moved or uploaded whole. Links to the sources lose
their signatures and passwords: a shared item must not lend anybody's access.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pystac
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from shapely.geometry.polygon import orient

from geoelle.errors import FormatError
from geoelle.files import check_free, sha256, write_bytes
from geoelle.raster import BandStatistics, geobox_of
from geoelle.style import CLASS_NODATA

__all__ = ["ItemFacts", "OutputFile", "SourceItem", "strip_url", "write_item"]

CLASSIFICATION_EXTENSION = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
RASTER_EXTENSION = "https://stac-extensions.github.io/raster/v2.0.0/schema.json"

_MULTIHASH_SHA256 = "1220"  # function code and length in bytes, as the file extension wants before the digest
_SEGMENT_M = 10_000  # of a side of the footprint: keeps its bent edge within metres
_DEGREES = 1e-7  # precision of the footprint, about a centimetre


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFile:
    """Name one file or Zarr directory of the output; `is_raster`: it holds the bands of the raster.

    `classes` are the names and the colours ("#rrggbb") of the codes of a raster of classes, uint8.
    """

    key: str
    path: Path
    media_type: str
    roles: tuple[str, ...]
    title: str
    is_raster: bool = False
    classes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceItem:
    """Name one STAC item the output was made from; `href` is where its own record is, None where unknown."""

    id: str
    href: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFacts:
    """State what the item says beside the raster: its id, UTC period, bands and further `properties`.

    `descriptions` and `units` are in band order, as in the files.
    """

    id: str
    start: datetime
    end: datetime
    descriptions: tuple[str, ...]
    units: tuple[str, ...]
    properties: Mapping[str, object] = field(default_factory=dict)


def strip_url(url: str) -> str:
    """Drop the query, the fragment and any user and password of a URL; paths stay as they are.

    >>> strip_url("https://me:secret@host:8443/a/B02.tif?sig=abc#x")
    'https://host:8443/a/B02.tif'
    """
    parts = urlsplit(url)
    if not parts.netloc:
        return url
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def write_item(
    path: str | Path,
    facts: ItemFacts,
    raster: xr.DataArray,
    *,
    files: Sequence[OutputFile],
    sources: Sequence[SourceItem],
    overwrite: bool = False,
) -> Path:
    """Write a STAC 1.1 item with the projection, raster and file extensions.

    The ids of all sources are in `geoelle:items`; those with a record are linked as `derived_from`.

    Raises:
        FormatError: a file is missing or lies outside the directory of the item.
        GeoelleError: the item exists and `overwrite` is false, or cannot be written.
    """
    path = check_free(path, overwrite=overwrite)
    item = _outline(facts, geobox_of(raster))
    if any(file.classes for file in files):
        item.stac_extensions.append(CLASSIFICATION_EXTENSION)
    for file in files:
        item.add_asset(file.key, _asset(file, path.parent))
        if file.is_raster:
            item.assets[file.key].extra_fields |= _raster_fields(raster, facts)
        if file.classes:
            item.assets[file.key].extra_fields |= _class_fields(file.classes)
        if file.path.is_file():
            checksum = _MULTIHASH_SHA256 + sha256(file.path)
            fields = FileExtension.ext(item.assets[file.key], add_if_missing=True)
            fields.apply(checksum=checksum, size=file.path.stat().st_size)
    item.properties["geoelle:items"] = [source.id for source in sources]
    for source in sources:
        if source.href:
            item.add_link(_source_link(source.id, source.href, path.parent))
    record = item.to_dict(include_self_link=False, transform_hrefs=False)
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    return write_bytes(path, text.encode(), overwrite=overwrite)


def _outline(facts: ItemFacts, box: GeoBox) -> pystac.Item:
    segments = max(2, math.ceil(max(box.boundingbox.span_x, box.boundingbox.span_y) / _SEGMENT_M))
    footprint = orient(shapely.set_precision(box.footprint("EPSG:4326", npoints=segments).geom, _DEGREES))
    instant = facts.start == facts.end
    item = pystac.Item(
        id=facts.id,
        geometry=shapely.geometry.mapping(footprint),
        bbox=list(footprint.bounds),
        datetime=facts.start if instant else None,
        start_datetime=None if instant else facts.start,
        end_datetime=None if instant else facts.end,
        properties=dict(sorted(facts.properties.items())),
        stac_extensions=[RASTER_EXTENSION],
    )
    ProjectionExtension.ext(item, add_if_missing=True).apply(
        code=f"EPSG:{box.crs.to_epsg()}",
        shape=list(box.shape),
        transform=list(box.affine)[:6],
        bbox=list(box.boundingbox.bbox),
    )
    return item


def _asset(file: OutputFile, directory: Path) -> pystac.Asset:
    if not file.path.exists():
        raise FormatError(f"no file {file.path} for asset {file.key} of the item; write it first")
    href = os.path.relpath(file.path.resolve(), directory.resolve())
    if href.startswith(os.pardir):
        raise FormatError(f"asset {file.key} ({file.path}) lies outside {directory}; write the item beside it")
    return pystac.Asset(
        href=f"./{Path(href).as_posix()}",
        title=file.title,
        media_type=file.media_type,
        roles=list(file.roles),
    )


def _raster_fields(raster: xr.DataArray, facts: ItemFacts) -> dict[str, object]:
    names = [str(name) for name in raster["band"].values]
    bands = [
        {
            "name": name,
            "description": text,
            **({"unit": unit} if unit else {}),
            "statistics": {k: v for k, v in asdict(BandStatistics.of(layer)).items() if v is not None},
        }
        for name, text, unit, layer in zip(names, facts.descriptions, facts.units, raster.values, strict=True)
    ]
    return {
        "data_type": "float32",
        "nodata": "nan",
        "raster:sampling": "area",
        "raster:spatial_resolution": abs(geobox_of(raster).resolution.x),
        "bands": bands,
    }


def _class_fields(classes: Sequence[tuple[str, str]]) -> dict[str, object]:
    every = [
        {"value": code, "name": name.replace(" ", "-"), "title": name, "color_hint": colour.removeprefix("#").upper()}
        for code, (name, colour) in enumerate(classes)
    ]
    return {"data_type": "uint8", "nodata": CLASS_NODATA, "classification:classes": every}


def _source_link(source: str, href: str, directory: Path) -> pystac.Link:
    href = strip_url(href)
    if Path(href).is_absolute():
        href = Path(os.path.relpath(href, directory.resolve())).as_posix()
    link = pystac.Link(rel=pystac.RelType.DERIVED_FROM, target=href, media_type="application/geo+json")
    link.title = source
    return link
