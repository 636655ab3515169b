"""Turn the numbers in an item's files into physical units; decided once per item, from its metadata.

Sentinel-2 products of processing baseline 04.00 and later hold reflectance + 0.1: their number 1000 is a
reflectance of zero. Whoever subtracts it twice, or never, sees a change of 0.1 at January 2022. The rule
"sentinel-2", in this order:

1. `earthsearch:boa_offset_applied` true: the files were shifted when they were copied. Nothing is added, and
   the -0.1 that `raster:bands` still declares is ignored.
2. A baseline below 04.00 never had the offset: nothing is added, whatever else is declared.
3. From 04.00 on, the offset that `raster:bands` declares; -1000 where it declares none, as on Planetary
   Computer. The same for Level-1C, whose products call it RADIO_ADD_OFFSET.
4. No baseline known: what `raster:bands` declares; else, by date, -1000 from 25 January 2022 on, when 04.00
   became operational.

Where metadata contradict each other, or are known to be wrong, the decision carries a `doubt`, which the
reader passes on as a warning. Number 0 is nodata before any offset. Reflectance below zero is kept: clipping
it would move the mean of dark water and of shadow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase

import numpy as np
import pystac

from geoelle.chips import Sensor
from geoelle.errors import CatalogError, ReadError
from geoelle.scene import baseline, interval

__all__ = [
    "BandFile",
    "OffsetDoubt",
    "Radiometry",
    "find_asset",
    "has_asset",
    "masked",
    "radiometry",
    "to_physical",
]

_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_OFFSET_SINCE = (4, 0)
_OFFSET_DATE = datetime(2022, 1, 25, tzinfo=UTC)
_OFFSET = -1000.0


class OffsetDoubt(UserWarning):
    """The offset of an item had to be guessed, or its metadata contradict each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BandFile:
    """Name one band of a file: item id, asset key, address as the item gives it, 1-based band."""

    item: str
    key: str
    href: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Radiometry:
    """Say how a file's number x becomes a physical value: (x + add) * scale.

    `nodata` lists the numbers that are no data besides what the file declares; `doubt` is empty, or says why
    this is a guess.
    """

    scale: float
    add: float
    nodata: tuple[float, ...]
    doubt: str


def find_asset(item: pystac.Item, sensor: Sensor, name: str) -> BandFile:
    """Find the file that holds a band of the sensor, or its mask.

    Raises:
        CatalogError: the sensor has no such band.
        ReadError: the item has none of the assets the band may have.
    """
    keys = _keys(sensor, name)
    if (found := _locate(item, keys)) is None:
        raise ReadError(
            f"no asset for band {name} of {sensor.name} in item {item.id} (looked for {', '.join(keys)}; "
            f"it has {', '.join(sorted(item.assets)) or 'none'}); leave the item or the band out",
            item=item.id,
            asset=keys[0],
        )
    return found


def has_asset(item: pystac.Item, sensor: Sensor, name: str) -> bool:
    """Say whether the item has a file that holds a band of the sensor, or its mask.

    Raises:
        CatalogError: the sensor has no such band.
    """
    return _locate(item, _keys(sensor, name)) is not None


def radiometry(item: pystac.Item, asset: BandFile, sensor: Sensor) -> Radiometry:
    """Decide scale, offset and nodata of one asset of an item by the rule its sensor names.

    Raises:
        CatalogError: the sensor names an unknown rule, or the item declares what is not a number.
    """
    scale, offset, nodata = _declared(item, asset)
    missing = tuple(dict.fromkeys(v for v in (sensor.nodata, nodata) if v is not None))
    if sensor.offset_rule == "fixed":
        return _physical(sensor.scale, sensor.offset, missing)
    if sensor.offset_rule == "declared":
        whole = (sensor.scale, sensor.offset) if scale is None else (scale, offset or 0.0)
        return _physical(*whole, missing)
    if sensor.offset_rule == "sentinel-2":
        scale = sensor.scale if scale is None else scale
        add, doubt = _sentinel2(item, None if offset is None else round(offset / scale, 6))
        return Radiometry(scale=scale, add=add, nodata=missing, doubt=doubt)
    raise CatalogError(
        f"sensor {sensor.name} names no known offset rule ({sensor.offset_rule!r}); use sentinel-2, declared "
        "or fixed"
    )


def to_physical(numbers: np.ndarray, rule: Radiometry, *, to_db: bool) -> np.ndarray:
    """Turn float32 numbers, NaN where missing, into physical values in place; return the same array."""
    numbers += np.float32(rule.add)
    if (whole := round(1 / rule.scale)) and rule.scale == 1 / whole:
        numbers /= np.float32(whole)  # exact to the last bit, where a float32 of 0.0001 is not
    else:
        numbers *= np.float32(rule.scale)
    if to_db:
        numbers[~(numbers > 0)] = np.nan
        np.log10(numbers, out=numbers)
        numbers *= 10
    return numbers


def masked(codes_yx: np.ndarray, sensor: Sensor) -> np.ndarray:
    """Say which pixels of the mask file, float32 with NaN where missing, are masked: (y, x) bool."""
    missing = np.isnan(codes_yx)
    codes = np.where(missing, 0, codes_yx).astype(np.int64)
    bits = sum(1 << bit for bit in sensor.mask_bits)
    return missing | np.isin(codes, sensor.mask_classes) | ((codes & bits) != 0)


def _keys(sensor: Sensor, name: str) -> tuple[str, ...]:
    return dict(sensor.assets)[name] if name == sensor.mask_asset else sensor.asset_keys(name)


def _locate(item: pystac.Item, keys: tuple[str, ...]) -> BandFile | None:
    """Return the first of the keys that the item has, each spelled KEY[#BAND][@COLLECTION]."""
    for spelled in keys:
        key, _, collection = spelled.partition("@")
        key, _, index = key.partition("#")
        if key in item.assets and fnmatchcase((item.collection_id or "").upper(), collection.upper() or "*"):
            return BandFile(item=item.id, key=key, href=item.assets[key].href, index=int(index or 1))
    return None


def _sentinel2(item: pystac.Item, declared: float | None) -> tuple[float, str]:
    """Return the number to add and the doubt about it; `declared` is what raster:bands says, in numbers."""
    applied = next((item.properties[name] for name in _APPLIED if name in item.properties), None)
    version = baseline(item)
    if applied:
        return 0.0, ""
    if version is None:
        return _unknown_baseline(item, declared)
    text = f"{version[0]:02d}.{version[1]:02d}"
    if version < _OFFSET_SINCE:
        if declared and applied is None:
            return (
                0.0,
                f"raster:bands declares {declared:g} for baseline {text}, which has none; 0 is used",
            )
        return 0.0, ""
    add = _OFFSET if declared is None else declared
    if applied is not None:
        return add, (
            f"boa_offset_applied is false for baseline {text}, which is untrue for some items of 2022 "
            f"and 2025; {add:g} is added as stated"
        )
    if add == 0:
        return (
            add,
            f"raster:bands declares no offset for baseline {text}; taken as already shifted",
        )
    return add, ""


def _unknown_baseline(item: pystac.Item, declared: float | None) -> tuple[float, str]:
    if declared is not None:
        return declared, ""
    add = _OFFSET if interval(item)[0] >= _OFFSET_DATE else 0.0
    return add, f"neither a processing baseline nor an offset is given; {add:g} is added, judged by the date"


def _declared(item: pystac.Item, asset: BandFile) -> tuple[float | None, float | None, float | None]:
    """Return scale, offset and nodata as the asset declares them: raster:bands, or STAC 1.1 bands."""
    fields = item.assets[asset.key].extra_fields
    bands = fields.get("raster:bands") or fields.get("bands") or [{}]
    band = bands[asset.index - 1 if len(bands) >= asset.index else 0]
    if not isinstance(band, Mapping):
        raise CatalogError(
            f"raster:bands of {asset.key} in item {item.id} is not a list of objects; correct the item"
        )

    def number(name: str) -> float | None:
        places = (band.get(name), band.get(f"raster:{name}"), fields.get(f"raster:{name}"))
        value = next((v for v in (*places, fields.get(name)) if v is not None), None)
        try:
            return None if value is None else float(value)
        except (TypeError, ValueError) as cause:
            raise CatalogError(
                f"{name} of {asset.key} in item {item.id} is not a number ({value!r}); correct the item"
            ) from cause

    scale = number("scale")
    if scale == 0:
        raise CatalogError(f"scale of {asset.key} in item {item.id} is 0; correct the item")
    return scale, number("offset"), number("nodata")


def _physical(scale: float, offset: float, nodata: tuple[float, ...]) -> Radiometry:
    return Radiometry(scale=scale, add=offset / scale, nodata=nodata, doubt="")
