"""Read one file of an item onto a target grid: whole, named when it fails, tried again where that may help.

GDAL decodes, this module decides. What is known to go wrong silently is closed here: threads hide decoding
errors (a truncated JPEG 2000 then reads as zeros), an address that failed once is remembered as missing, and
`GDAL_HTTP_MAX_RETRY` under threads returned corrupt data without an error (GDAL #12426). So one file is read
by one thread in one call, and every retry starts from nothing. What no reader of windows can see is damage
inside a block that still decodes: GDAL does not check the checksums of DEFLATE.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import pyproj
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geoelle.access import OPEN, Access, public
from geoelle.errors import ReadError
from geoelle.resample import Target, block_mean, place, sample

__all__ = ["POLICY", "Asset", "Policy", "read_asset", "reason"]

GDAL_OPTIONS = {
    # Look for no sidecar files: one request instead of a directory listing.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    # The header of a cloud-optimised file in the first request.
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    # Neighbouring blocks in one request.
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    # Retries are ours: GDAL's returned corrupt data under threads.
    "GDAL_HTTP_MAX_RETRY": "0",
    # Decoding errors of worker threads do not reach the caller: zeros would look like data.
    "GDAL_NUM_THREADS": "1",
    # Never take what could not be decoded for data, whatever the environment says.
    "GTIFF_IGNORE_READ_ERRORS": "NO",
    # Each block is read once through one handle: a second cache only copies.
    "VSI_CACHE": "NO",
}
_PERMANENT = re.compile(r"HTTP (?:response|error) code ?: ?4(?!08|25|29)\d\d|Range downloading not supported")
_REFUSED = re.compile(r"HTTP (?:response|error) code ?: ?40[139]")
_MARGIN = 2  # source pixels around the window that bilinear needs
_VSI = {"s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Say how hard to try.

    `attempts` a file; `pause_s` before the second, doubled each time, with jitter; `timeout_s` without an
    answer; `workers` files read at the same time.
    """

    attempts: int = 4
    pause_s: float = 0.5
    timeout_s: float = 60.0
    workers: int = 8


POLICY = Policy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """Name one file of an item and what to take from it.

    `indexes` are 1-based bands of the file; `nodata` numbers that are missing besides what the file declares;
    `classes` tells that numbers are codes, which are never averaged.
    """

    item: str
    key: str
    href: str
    indexes: tuple[int, ...]
    nodata: tuple[float, ...] = ()
    classes: bool = False


def read_asset(asset: Asset, target: Target, *, access: Access = OPEN, policy: Policy = POLICY) -> np.ndarray:
    """Read bands of a file onto the target grid: (bands, y, x) float32 numbers as stored, NaN where missing.

    Pixels are copied where the file's grid is the target's, or a whole multiple of it; finer files are
    averaged, others interpolated bilinearly; codes are taken from the nearest pixel. Broken connections,
    timeouts, HTTP 408, 425, 429 and 5xx, and remote reads that are short or do not decode are tried again,
    after pauses of our own: GDAL does not show what a server asks for in Retry-After.

    Raises:
        ReadError: the file cannot be read; says which, and why.
    """
    for attempt in range(policy.attempts):
        try:
            pixels = _read(access.sign(asset.href), asset, target, _options(access, policy, attempt))
        except (RasterioError, OSError) as cause:
            text = reason(cause)
            refused = access.auth == "signed" and bool(_REFUSED.search(text))
            if refused:
                access.forget(asset.href)
            final = attempt + 1 == policy.attempts or not _remote(asset.href)
            if final or (_PERMANENT.search(text) and not refused):
                tried = f" after {attempt + 1} attempts" if attempt else ""
                raise _failure(asset, target, text + tried, access.hint) from cause
        except pyproj.exceptions.ProjError as cause:
            raise _failure(asset, target, str(cause), "correct the CRS of the file") from cause
        else:
            return pixels
        time.sleep(policy.pause_s * 2**attempt * random.uniform(0.5, 1.5))
    raise AssertionError("a policy allows at least one attempt")


def _read(href: str, asset: Asset, target: Target, options: dict[str, str]) -> np.ndarray:
    with rasterio.Env(**options), rasterio.open(_gdal_path(href), sharing=False) as source:
        if missing := [i for i in asset.indexes if i > source.count]:
            raise _failure(
                asset, target, f"it has {source.count} bands, not band {missing[0]}", "correct the sensor"
            )
        where = place(_geobox(source, asset, target), target)
        level = None if asset.classes else _overview(source.overviews(asset.indexes[0]), where.scale)
        if level is None:
            return _take(source, asset, target)
        with rasterio.open(_gdal_path(href), sharing=False, overview_level=level) as smaller:
            return _take(smaller, asset, target)


def _take(source: rasterio.DatasetReader, asset: Asset, target: Target) -> np.ndarray:
    where = place(_geobox(source, asset, target), target)
    shape = tuple(target.geobox.shape)
    shrink = 1 if asset.classes else max(int(where.scale + 1e-6), 1)
    window = tuple(
        slice(part.start // shrink * shrink, min(-(-part.stop // shrink) * shrink, count))
        for part, count in zip(where.window(source.shape, _MARGIN * shrink), source.shape, strict=True)
    )
    if any(part.start >= part.stop for part in window):
        return np.full((len(asset.indexes), *shape), np.nan, np.float32)
    pixels = _pixels(source, asset, window)
    if shrink > 1:
        pixels = block_mean(pixels, shrink)
    return sample(pixels, where.within(window, shrink), shape, smooth=not asset.classes)


def _pixels(source: rasterio.DatasetReader, asset: Asset, window: tuple[slice, slice]) -> np.ndarray:
    """Read a window of the file in one call: (bands, y, x) float32, NaN where missing."""
    part = Window.from_slices(*window)
    indexes = list(asset.indexes)
    pixels = source.read(indexes, window=part, out_dtype="float32")
    for index, band_yx in zip(indexes, pixels, strict=True):
        for number in (source.nodatavals[index - 1], *asset.nodata):
            if number is not None:
                band_yx[band_yx == np.float32(number)] = np.nan
        if MaskFlags.per_dataset in source.mask_flag_enums[index - 1]:
            band_yx[source.read_masks(index, window=part) == 0] = np.nan
    return pixels


def _geobox(source: rasterio.DatasetReader, asset: Asset, target: Target) -> GeoBox:
    if source.crs is None or source.transform.is_degenerate:
        raise _failure(
            asset, target, "it has no CRS or no place in it", "correct the file or leave the item out"
        )
    return GeoBox(source.shape, source.transform, source.crs)


def _overview(factors: Sequence[int], scale: float) -> int | None:
    """Return the coarsest overview that is still as fine as the target, or None for the file itself."""
    fine = [index for index, factor in enumerate(factors) if factor <= scale + 1e-6]
    return fine[-1] if fine else None


def _options(access: Access, policy: Policy, attempt: int) -> dict[str, str]:
    patience = {
        "GDAL_HTTP_CONNECTTIMEOUT": f"{min(policy.timeout_s, 15):g}",
        # Give up on a server that says nothing, not on a large window over a slow line.
        "GDAL_HTTP_LOW_SPEED_TIME": f"{max(policy.timeout_s, 1):.0f}",
        "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
        "GDAL_HTTP_TIMEOUT": f"{10 * policy.timeout_s:g}",
    }
    # GDAL remembers that an address failed, and would answer a retry from memory.
    afresh = {"CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsigs/:/vsiaz/"} if attempt else {}
    return {**GDAL_OPTIONS, **patience, **access.gdal_options(), **afresh}


def _gdal_path(href: str) -> str:
    """Return the name GDAL opens: its own for buckets, where it finds credentials as its manual says."""
    scheme, _, rest = href.partition("://")
    return _VSI[scheme] + rest if scheme in _VSI else href


def _remote(href: str) -> bool:
    return urlsplit(href).scheme in ("http", "https", *_VSI) or href.startswith("/vsi")


def reason(cause: BaseException) -> str:
    """Return what GDAL said first and last, without secrets."""
    said = [str(cause)] if cause.__cause__ is None else [str(cause.__cause__)]
    return public(" ".join(said)).strip().rstrip(".") or type(cause).__name__


def _failure(asset: Asset, target: Target, cause: str, hint: str) -> ReadError:
    box = target.geobox.boundingbox
    edges = ",".join(f"{edge:.10g}" for edge in (box.left, box.bottom, box.right, box.top))
    place = f"EPSG:{target.geobox.crs.epsg} {edges}"
    href = public(asset.href)
    return ReadError(
        f"reading failed for asset {asset.key} of item {asset.item} at {place} ({href}: {cause}); {hint}",
        item=asset.item,
        asset=asset.key,
        href=href,
        address=place,
    )
