"""Describe a chip by its pixels alone: the statistics a difficulty score has to beat.

The features are the pixel-complexity null of every fit and the input of `excess`. Their names follow from the
bands alone, each chip is measured by itself (the batch changes no number) and the skewed ones are logarithms,
so that a ridge on them is a fair opponent. Units inside: reflectance 0-1, or dB for the bands in `SAR_BANDS`.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geoelle.errors import InputMismatch

__all__ = ["INDICES", "SAR_BANDS", "feature_names", "features", "is_uniform_b", "is_water_b"]

SAR_BANDS = frozenset({"vv", "vh", "hh", "hv"})
MIN_PX = 8
UNIFORM_STD = 0.01  # reflectance; about twice the noise of a 10 m Sentinel-2 band over a calm lake
UNIFORM_STD_DB = 2.0  # dB; speckle of about five looks
WATER_SHARE = 0.5

_CHUNK = 64  # chips a pass: keeps the temporaries in cache
_PER_BAND = ("mean", "log_var", "log_grad", "log_range")
INDICES = {
    "ndvi": ("nir", "red"),
    "ndwi": ("green", "nir"),
    "mndwi": ("green", "swir16"),
    "nbr": ("nir", "swir22"),
}
"""Normalised differences, (a - b) / (a + b)."""
_TEXTURE = (
    "gray_skew",
    "gray_min",
    "gray_max",
    "log_gray_var",
    "log_var_in_2px",
    "log_var_in_4px",
    "log_var_in_8px",
    "edge_density",
    "grad_anisotropy",
    "spectral_slope",
    "spectral_level",
    "high_frequency_share",
    "entropy_absolute",
    "entropy_relative",
    "log_deflate_absolute",
    "log_deflate_relative",
    "band_corr_mean",
    "band_corr_min",
    "band_corr_adjacent",
    "log_band_rank",
    "dark_share",
    "bright_share",
    "log_frame_change",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """The fixed physical thresholds of a unit: quantisation, edges, dark and bright."""

    offset: float
    step: float
    edge: float
    dark: float
    bright: float


_REFLECTANCE = _Scale(offset=0.0, step=0.004, edge=0.02, dark=0.05, bright=0.30)
_DECIBEL = _Scale(offset=-45.0, step=0.25, edge=3.0, dark=-18.0, bright=-5.0)


def feature_names(bands: Sequence[str]) -> tuple[str, ...]:
    """Name the columns of `features` for these bands, in order.

    >>> names = feature_names(("red", "nir"))
    >>> len(names), names[:2], names[-2:]
    (33, ('mean_red', 'mean_nir'), ('ndvi_mean', 'ndvi_sd'))
    """
    per_band = [f"{kind}_{band}" for kind in _PER_BAND for band in bands]
    return (*per_band, *_TEXTURE, *(f"{name}_{stat}" for name in _indices(bands) for stat in ("mean", "sd")),
            *(("water_share",) if _tells_water(bands) else ()))  # fmt: skip


def features(pixels: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Measure how complex each chip looks.

    `pixels` is (b, c, y, x) or (b, t, c, y, x), reflectance 0-1 or dB, NaN = missing; missing pixels are
    filled here with the mean of their band in their chip and frame. Frames are measured one by one and
    averaged; `log_frame_change` tells how far they differ. Returns float64 (b, f), columns as
    `feature_names`; a chip with a band without any finite pixel is a row of NaN.

    Raises `InputMismatch` where the shape does not fit the bands or a chip is under 8 px.
    """
    pixels_btcyx = _with_frames(pixels, bands)
    n_frames = pixels_btcyx.shape[1]
    out_bf = np.empty((len(pixels_btcyx), len(feature_names(bands))))
    change = len(_PER_BAND) * len(bands) + _TEXTURE.index("log_frame_change")
    for start in range(0, len(out_bf), _CHUNK):
        chunk_btcyx = _filled(pixels_btcyx[start : start + _CHUNK])
        empty_b = ~np.isfinite(chunk_btcyx).all((1, 2, 3, 4))
        chunk_btcyx = np.where(empty_b[:, None, None, None, None], np.float32(0), chunk_btcyx)
        rows_bf = sum(_frame(chunk_btcyx[:, t], bands) for t in range(n_frames)) / n_frames
        if n_frames > 1:
            steps_b = np.abs(np.diff(chunk_btcyx, axis=1)).mean((1, 2, 3, 4), dtype=np.float64)
            rows_bf[:, change] = np.log(steps_b + 1e-5)
        rows_bf[empty_b] = np.nan
        out_bf[start : start + _CHUNK] = rows_bf
    return out_bf


def is_water_b(features_bf: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Mark chips that are mostly water: all False where the bands cannot tell (no green with nir, no vv)."""
    names = list(names)
    if "water_share" not in names:
        return np.zeros(len(features_bf), bool)
    return np.asarray(features_bf)[:, names.index("water_share")] > WATER_SHARE


def is_uniform_b(features_bf: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Mark chips without texture: the band mean has a standard deviation under 0.01 reflectance, or 2 dB."""
    names = list(names)
    sar = any(f"mean_{band}" in names for band in SAR_BANDS)
    log_var_b = np.asarray(features_bf)[:, names.index("log_gray_var")]
    return log_var_b < 2 * np.log(UNIFORM_STD_DB if sar else UNIFORM_STD)


def _with_frames(pixels: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    pixels = np.asarray(pixels)
    pixels = pixels[:, None] if pixels.ndim == 4 else pixels
    if pixels.ndim != 5 or pixels.shape[2] != len(bands) or min(pixels.shape[3:]) < MIN_PX:
        raise InputMismatch(
            f"pixel features failed for an array of shape {pixels.shape} with {len(bands)} bands; "
            f"pass (b, c, y, x) or (b, t, c, y, x) with one name a band and chips of at least {MIN_PX} px"
        )
    return pixels


def _filled(pixels_btcyx: np.ndarray) -> np.ndarray:
    """Replace missing pixels by their band's mean; a band without any stays NaN."""
    x = pixels_btcyx.astype(np.float32, copy=True)
    bad = ~np.isfinite(x)
    if bad.any():
        n_good = (~bad).sum((3, 4), keepdims=True)
        total = np.where(bad, np.float32(0), x).sum((3, 4), keepdims=True, dtype=np.float64)
        mean = np.divide(total, n_good, out=np.full(total.shape, np.nan), where=n_good > 0)
        np.copyto(x, mean.astype(np.float32), where=bad)
    return x


def _indices(bands: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Map each normalised difference these bands allow to its (plus, minus) band positions."""
    at = {band: i for i, band in enumerate(bands)}
    return {name: (at[a], at[b]) for name, (a, b) in INDICES.items() if a in at and b in at}


def _tells_water(bands: Sequence[str]) -> bool:
    return "ndwi" in _indices(bands) or "vv" in bands


def _frame(x_bcyx: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Measure one filled frame: (b, c, y, x) -> (b, f)."""
    scale = _DECIBEL if SAR_BANDS & set(bands) else _REFLECTANCE
    gray_byx = x_bcyx.mean(1)
    dx, dy = np.abs(np.diff(x_bcyx, axis=-1)), np.abs(np.diff(x_bcyx, axis=-2))
    flat_bcn = x_bcyx.reshape(*x_bcyx.shape[:2], -1)
    mean_bc = flat_bcn.mean(-1)
    centred_bcn = flat_bcn - mean_bc[..., None]
    cov_bcc = centred_bcn @ centred_bcn.transpose(0, 2, 1) / np.float32(flat_bcn.shape[-1])
    var_bc = np.diagonal(cov_bcc, axis1=1, axis2=2)
    grad_bc = 0.5 * (dx.mean((2, 3)) + dy.mean((2, 3)))
    columns = [
        mean_bc,
        np.log(var_bc + 1e-8),
        np.log(grad_bc + 1e-5),
        np.log(flat_bcn.max(-1) - flat_bcn.min(-1) + 1e-4),
        _moments(gray_byx),
        _edges(gray_byx, scale),
        _spectrum(gray_byx),
        _information(x_bcyx, gray_byx, scale),
        _band_structure(cov_bcc),
        np.stack([(gray_byx < scale.dark).mean((1, 2)), (gray_byx > scale.bright).mean((1, 2))], 1),
        np.full((len(x_bcyx), 1), np.log(1e-5)),
        _ground(x_bcyx, bands),
    ]
    return np.concatenate(columns, 1, dtype=np.float64)


def _moments(gray_byx: np.ndarray) -> np.ndarray:
    """Skewness (arcsinh), extremes, and the log variance in all and inside squares of 2, 4 and 8 px."""
    centred = gray_byx - gray_byx.mean((1, 2), keepdims=True)
    var_b = np.square(centred).mean((1, 2))
    skew_b = (centred**3).mean((1, 2)) / (var_b + 1e-8) ** 1.5
    y, x = gray_byx.shape[1:]
    level = centred[:, : y - y % MIN_PX, : x - x % MIN_PX]
    total_b = np.square(level).mean((1, 2))
    inside = []
    for _ in range(3):
        level = 0.25 * (level[:, ::2, ::2] + level[:, 1::2, ::2] + level[:, ::2, 1::2] + level[:, 1::2, 1::2])
        inside.append(np.maximum(total_b - np.square(level).mean((1, 2)), 0))
    logs = [np.log(v + 1e-8) for v in (var_b, *inside)]
    return np.stack([np.arcsinh(skew_b), gray_byx.min((1, 2)), gray_byx.max((1, 2)), *logs], 1)


def _edges(gray_byx: np.ndarray, scale: _Scale) -> np.ndarray:
    """Share of pixels on an edge and the log ratio of west-east to north-south gradients."""
    dx = np.diff(gray_byx, axis=2)[:, :-1]
    dy = np.diff(gray_byx, axis=1)[:, :, :-1]
    density_b = (np.square(dx) + np.square(dy) > scale.edge**2).mean((1, 2))
    ratio_b = np.log(np.square(dx).mean((1, 2)) + 1e-8) - np.log(np.square(dy).mean((1, 2)) + 1e-8)
    return np.stack([density_b, ratio_b], 1)


def _spectrum(gray_byx: np.ndarray) -> np.ndarray:
    """Slope and level of the radial log-log power spectrum; log-odds of power above 0.25 cycles a pixel."""
    b, y, x = gray_byx.shape
    window = np.hanning(y)[:, None] * np.hanning(x)
    window = (window / np.sqrt(np.square(window).mean())).astype(np.float32)
    power = np.fft.rfft2((gray_byx - gray_byx.mean((1, 2), keepdims=True)) * window)
    power = (np.square(power.real) + np.square(power.imag)).reshape(b, -1) / (y * x)
    radius = np.hypot(np.fft.fftfreq(y)[:, None], np.fft.rfftfreq(x)).ravel()
    ring = np.rint(radius * min(y, x)).astype(int)
    order = np.flatnonzero((ring >= 1) & (radius <= 0.5))
    order = order[np.argsort(ring[order], kind="stable")]
    rings, starts, counts = np.unique(ring[order], return_index=True, return_counts=True)
    log_power = np.log(np.add.reduceat(power.take(order, 1), starts, axis=1) / counts + 1e-8)
    log_f = np.log(rings / min(y, x))
    weights = np.sqrt(counts) / np.sqrt(counts).sum()
    centred_f = log_f - (weights * log_f).sum()
    level_b = (log_power * weights).sum(1)
    slope_b = (log_power * (weights * centred_f)).sum(1) / (weights * centred_f**2).sum()
    high_b = power.take(np.flatnonzero(radius > 0.25), 1).sum(1)
    low_b = power.take(np.flatnonzero((radius > 0) & (radius <= 0.25)), 1).sum(1)
    return np.stack([slope_b, level_b, np.log(high_b + 1e-8) - np.log(low_b + 1e-8)], 1)


def _information(x_bcyx: np.ndarray, gray_byx: np.ndarray, scale: _Scale) -> np.ndarray:
    """Entropy (bits) and log deflate bytes a value, of grey levels of fixed and of stretched step."""
    low, high = gray_byx.min((1, 2), keepdims=True), gray_byx.max((1, 2), keepdims=True)
    stretched = ((gray_byx - low) * (255.0 / np.maximum(high - low, 1e-4))).astype(np.uint8)
    fixed = np.clip((gray_byx - scale.offset) / scale.step, 0, 255).astype(np.uint8)
    bands = np.clip((x_bcyx - scale.offset) / scale.step, 0, 255).astype(np.uint8)
    return np.stack(
        [_entropy(fixed, 256), _entropy(stretched >> 2, 64), _log_deflate(bands), _log_deflate(stretched)], 1
    )


def _entropy(levels_byx: np.ndarray, n_levels: int) -> np.ndarray:
    b, n = len(levels_byx), levels_byx[0].size
    index = levels_byx.reshape(b, n) + n_levels * np.arange(b)[:, None]
    p = np.bincount(index.ravel(), minlength=b * n_levels).reshape(b, n_levels) / n
    return -(p * np.log2(np.where(p > 0, p, 1))).sum(1)


def _log_deflate(levels: np.ndarray) -> np.ndarray:
    """Log of the deflate bytes a value, level 1, after a west-east difference (as PNG does)."""
    delta = np.ascontiguousarray(np.diff(levels, axis=-1, prepend=np.uint8(0)))
    return np.log([len(zlib.compress(chip.data, 1)) / chip.size for chip in delta])


def _band_structure(cov_bcc: np.ndarray) -> np.ndarray:
    """Mean, least and adjacent correlation between bands, and the log effective number of bands."""
    c = cov_bcc.shape[1]
    var_bc = np.diagonal(cov_bcc, axis1=1, axis2=2)
    trace_b, square_b = var_bc.sum(1), np.square(cov_bcc).sum((1, 2))
    rank_b = np.log((np.square(trace_b) + 1e-12) / (square_b + 1e-12))
    if c == 1:
        return np.stack([np.ones_like(rank_b)] * 3 + [rank_b], 1)
    sd_bc = np.sqrt(var_bc) + 1e-6
    corr_bcc = cov_bcc / (sd_bc[:, :, None] * sd_bc[:, None, :])
    i, j = np.triu_indices(c, 1)  # `take` keeps C order, so that the sums do not depend on the batch
    above = corr_bcc.reshape(-1, c * c).take(i * c + j, 1)
    adjacent_b = above.take(np.flatnonzero(j == i + 1), 1).mean(1)
    return np.stack([above.mean(1), above.min(1), adjacent_b, rank_b], 1)


def _ground(x_bcyx: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Mean and spread of the normalised differences, and the share of water pixels, where the bands allow."""
    columns = []
    water_byx = None
    for name, (plus, minus) in _indices(bands).items():
        a, b = np.maximum(x_bcyx[:, plus], 0), np.maximum(x_bcyx[:, minus], 0)
        index_byx = (a - b) / (a + b + np.float32(1e-3))
        columns += [index_byx.mean((1, 2)), index_byx.std((1, 2))]
        if name == "ndwi":  # snow and cloud also have ndwi > 0, but reflect in the near infrared
            water_byx = (index_byx > 0) & (b < 0.15)
    if "vv" in bands:
        water_byx = x_bcyx[:, list(bands).index("vv")] < _DECIBEL.dark
    if water_byx is not None:
        columns.append(water_byx.mean((1, 2)))
    return np.stack(columns, 1) if columns else np.empty((len(x_bcyx), 0))
