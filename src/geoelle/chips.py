"""`Band`, `Sensor`, `Chips`: the pixel batch, and what its axes, units and NaNs mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from geoelle.area import Addresses
from geoelle.errors import CatalogError, InputMismatch

__all__ = ["MIN_VALID", "Band", "Chips", "Sensor"]

MIN_VALID = 0.9  # share of pixels a chip needs to be valid


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Describe one band: its name, centre wavelength (None for SAR) and native metres a pixel."""

    name: str
    wavelength_um: float | None
    gsd_m: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensor:
    """Describe what a collection's pixels are and how its files become physical units; pure data.

    `level` is the processing level, `unit` what pixels are in ("reflectance" or "gamma0 dB"). A file's
    number x becomes `x * scale + offset` where the item says nothing; `offset_rule` names how an item
    overrides that ("sentinel-2", "declared" or "fixed", see `geoelle.harmonise`); then decibels where
    `to_db`. `nodata` is masked besides what the file itself declares. Pixels of `mask_asset` whose class
    is one of `mask_classes`, or that have one of `mask_bits` set, are masked; `note` says it in words.
    `collections` are the collection ids this sensor covers, preferred first; `endpoint` is the public one
    searched when no catalogue is named. `assets` pairs a band, or the mask, with the keys it may have, most
    likely first, each `KEY[#BAND][@COLLECTION]`: "image#4" is band 4 of asset image, "B05@*L30*" counts in
    collections that match the pattern only.
    """

    name: str
    title: str
    bands: tuple[Band, ...]
    gsd_m: float
    level: str
    unit: str
    scale: float
    offset: float
    offset_rule: str
    nodata: float | None
    mask_asset: str | None
    mask_classes: tuple[int, ...]
    mask_bits: tuple[int, ...]
    assets: tuple[tuple[str, tuple[str, ...]], ...]
    collections: tuple[str, ...]
    endpoint: str
    note: str
    to_db: bool

    @property
    def band_names(self) -> tuple[str, ...]:
        """Return the names of the bands, in order."""
        return tuple(band.name for band in self.bands)

    def band(self, name: str) -> Band:
        """Return the band of that name.

        Raises:
            CatalogError: the sensor has no such band.
        """
        for band in self.bands:
            if band.name == name:
                return band
        raise CatalogError(f"sensor {self.name} has no band {name!r}; it has {', '.join(self.band_names)}")

    def asset_keys(self, name: str) -> tuple[str, ...]:
        """Return the asset keys a band may have, most likely first; its own name where none is listed.

        Raises:
            CatalogError: the sensor has no such band.
        """
        return dict(self.assets).get(self.band(name).name, (name,))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chips:
    """Hold a batch of b chips of t frames and c bands.

    `pixels_btcyx` is float32 in physical units (reflectance 0-1, or dB), rows from north to south; NaN is
    nodata or masked. `addresses` has one address a chip; `times_bt` is datetime64[s], UTC, NaT for a
    frame without an item; `lonlat_b2` is the chip centres in degrees, float64; `bands` names the c axis;
    `items` has a tuple of item ids a chip; `sensor` names whose bands these are, "" where unknown.

    Raises:
        InputMismatch: parts of unlike length, type or range.
    """

    pixels_btcyx: np.ndarray
    addresses: Addresses
    times_bt: np.ndarray
    lonlat_b2: np.ndarray
    bands: tuple[str, ...]
    items: tuple[tuple[str, ...], ...]
    sensor: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "bands", tuple(self.bands))
        object.__setattr__(self, "items", tuple(tuple(ids) for ids in self.items))
        if self.pixels_btcyx.ndim != 5 or self.pixels_btcyx.dtype != np.float32:
            found = f"{self.pixels_btcyx.shape} {self.pixels_btcyx.dtype}"
            raise InputMismatch(f"pixels of chips are {found}; give (b, t, c, y, x) float32")
        count, frames, bands, height, width = self.pixels_btcyx.shape
        side = self.addresses.lattice.size_px
        for part, found, wanted in (
            ("pixels", (height, width), (side, side)),
            ("addresses", len(self.addresses), count),
            ("times", self.times_bt.shape, (count, frames)),
            ("lonlat", self.lonlat_b2.shape, (count, 2)),
            ("bands", len(self.bands), bands),
            ("different bands", len(set(self.bands)), bands),
            ("items", len(self.items), count),
        ):
            if found != wanted:
                raise InputMismatch(f"{part} of {count} chips are {found}, not {wanted}; make them agree")
        if self.times_bt.dtype != np.dtype("datetime64[s]"):
            raise InputMismatch(f"times of chips are {self.times_bt.dtype}; give datetime64[s]")
        if self.lonlat_b2.dtype != np.float64 or not (np.abs(self.lonlat_b2) <= (180.0, 90.0)).all():
            raise InputMismatch("lonlat of chips is not lon, lat in degrees as float64; give longitude first")

    def __len__(self) -> int:
        return len(self.pixels_btcyx)

    def __getitem__(self, key: slice | np.ndarray | Sequence[int]) -> Chips:
        """Return some of the chips: a slice, a mask or a list of positions."""
        rows = np.arange(len(self))[key]
        if not rows.ndim:
            raise InputMismatch(f"chips are not taken one by one ({key}); use a slice, a mask or a list")
        return Chips(
            pixels_btcyx=self.pixels_btcyx[key],
            addresses=self.addresses[key],
            times_bt=self.times_bt[key],
            lonlat_b2=self.lonlat_b2[key],
            bands=self.bands,
            items=tuple(self.items[i] for i in rows),
            sensor=self.sensor,
        )

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Return (b, t, c, y, x)."""
        return self.pixels_btcyx.shape

    @property
    def size_px(self) -> int:
        """Return the side of a chip in pixels."""
        return self.shape[-1]

    @property
    def valid_fraction_b(self) -> np.ndarray:
        """Return the share of pixels that are finite in all bands and frames, (b,) float64."""
        return np.isfinite(self.pixels_btcyx).all(axis=(1, 2)).mean(axis=(1, 2))

    @property
    def valid_b(self) -> np.ndarray:
        """Return which chips have at least 90% valid pixels, (b,) bool."""
        return self.valid_fraction_b >= MIN_VALID

    def select_bands(self, names: Sequence[str]) -> Chips:
        """Return the chips with these bands, in this order.

        Raises:
            InputMismatch: bands the chips do not have.
        """
        if missing := [name for name in names if name not in self.bands]:
            lacking, had = ", ".join(missing), ", ".join(self.bands)
            raise InputMismatch(f"chips lack the bands {lacking} (they have {had}); ask for others")
        chosen = [self.bands.index(name) for name in names]
        return replace(self, pixels_btcyx=self.pixels_btcyx[:, :, chosen], bands=tuple(names))
