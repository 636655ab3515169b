"""Score a ranking of cells against labels of change, with intervals that redraw whole blocks of ground."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import shapely
from affine import Affine
from rasterio.features import rasterize

from geoelle.bootstrap import Bootstrap, Interval
from geoelle.errors import FormatError
from geoelle.lattice import Addresses

__all__ = ["BLOCK_CHIPS", "FALSE_AREA", "Detection", "blocks_of", "detect", "read_truth"]

BLOCK_CHIPS = 2
"""Chips along a side of a block: neighbours that share pixels are redrawn together."""
FALSE_AREA = 0.01
"""Share of the unchanged cells that may be alarms, for the recall."""
_FINE = 4  # steps along a side of a cell to measure how much of it is labelled
_DRAWS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """How well a measure ranks changed cells above others, with 95% intervals; NaN where undefined.

    `lift` is AUPRC over the prevalence; `recall` at `FALSE_AREA`. Of the flags, NaN where there are none: `f1`,
    `flagged`, the share of changed cells that are flagged, and `flagged_inside`, the same without cells that lie
    outside the area of applicability after.
    """

    auroc: Interval
    auprc: Interval
    lift: Interval
    recall: Interval
    f1: Interval
    flagged: Interval
    flagged_inside: Interval

    def row(self) -> dict[str, str]:
        """Return the columns of a report."""
        return {
            "AUROC": str(self.auroc), "AUPRC": str(self.auprc), "AUPRC / prevalence": str(self.lift),
            f"recall at {FALSE_AREA:.0%} false alarms": str(self.recall), "F1 of flags": str(self.f1),
            "recall of flags": str(self.flagged), "the same, cells outside left out": str(self.flagged_inside),
        }  # fmt: skip

    def to_dict(self) -> dict[str, dict[str, float | None]]:
        """Return plain JSON data, NaN as None."""
        return {name: getattr(self, name).to_dict() for name in self.__slots__}


def read_truth(path: Path, addresses: Addresses) -> np.ndarray:
    """Return 1 for cells of which labels cover half or more, else 0, float64 (n,).

    `path` is GeoJSON or GeoParquet of polygons in any CRS. Ground without a label counts as unchanged.

    Raises: FormatError (unreadable, not polygons, or every cell or none is labelled).
    """
    try:
        labels = geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path)
        shapes = labels.geometry.to_crs(addresses.lattice.epsg).dropna()
    except Exception as cause:  # drivers raise what they like
        raise FormatError(f"{path} holds no labels ({cause}); give GeoJSON or GeoParquet of polygons") from cause
    if not len(shapes) or (shapely.get_dimensions(shapes.to_numpy()) != 2).any():
        raise FormatError(f"{path} holds no polygons, or other shapes too; give polygons of what changed")
    box = addresses.lattice.raster_geobox(addresses.rows, addresses.cols)
    shape = tuple(n * _FINE for n in box.shape)
    fine_yx = rasterize(list(shapes), out_shape=shape, transform=box.affine * Affine.scale(1 / _FINE), dtype="uint8")
    share_yx = fine_yx.reshape(box.shape[0], _FINE, box.shape[1], _FINE).mean(axis=(1, 3))
    truth_n = share_yx[addresses.rows - addresses.rows.min(), addresses.cols - addresses.cols.min()] >= 0.5
    if truth_n.all() or not truth_n.any():
        raise FormatError(f"{path} labels {truth_n.sum()} of {len(truth_n)} cells; give labels of some of this ground")
    return truth_n.astype(np.float64)


def blocks_of(addresses: Addresses) -> np.ndarray:
    """Number the blocks of ground that cells lie in, int64 (n,): squares of `BLOCK_CHIPS` chips a side."""
    lattice = addresses.lattice
    side = max(BLOCK_CHIPS * lattice.size_px // lattice.stride_px, 1)
    return (addresses.rows // side << 32) + addresses.cols // side


def detect(
    size_n: np.ndarray, truth_n: np.ndarray, block_n: np.ndarray, flag_n: np.ndarray | None = None,
    inside_n: np.ndarray | None = None,
) -> Detection:  # fmt: skip
    """Score a measure: a cell of larger `size_n` should be one where `truth_n` is 1. Cells of NaN are left out.

    `inside_n` is False for cells outside the area of applicability after (all inside where it
    is not given). AUPRC is the average precision.

    Raises: HoldoutError (fewer than two blocks).

    >>> detect(np.arange(8.0), np.arange(8) > 5, np.arange(8) % 4).auroc.value
    1.0
    """
    known_n = np.isfinite(size_n)
    size_n, truth_n = np.asarray(size_n)[known_n], np.asarray(truth_n, np.float64)[known_n]
    draws = Bootstrap(block_n[known_n], n_draws=_DRAWS)
    order = np.argsort(-size_n, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(size_n[order])), len(order) - 1)
    flag = None if flag_n is None else np.nan_to_num(flag_n[known_n])
    inside = np.ones(len(size_n)) if inside_n is None else inside_n[known_n].astype(np.float64)
    found = np.array([
        (*_one(w_n, truth_n, order, ends), *_of_flags(w_n, truth_n, flag, inside))
        for w_n in (c_p[draws.place_n] for c_p in draws.counts_dp)
    ])  # fmt: skip
    return Detection(**dict(zip(Detection.__slots__, map(Interval.of, found.T), strict=True)))


def _one(weight_n: np.ndarray, truth_n: np.ndarray, order: np.ndarray, ends: np.ndarray) -> tuple[float, ...]:
    """Return the scores of the ranking in one draw: every cell counts `weight_n` times."""
    true = np.cumsum((weight_n * truth_n)[order])[ends]
    false = np.cumsum((weight_n * (1 - truth_n))[order])[ends]
    if not true[-1] or not false[-1]:
        return (np.nan,) * 4
    share_true, share_false = np.append(0, true / true[-1]), np.append(0, false / false[-1])
    precision = true / np.maximum(true + false, 1e-300)
    auprc = float(np.sum(np.diff(share_true) * precision))
    prevalence = true[-1] / (true[-1] + false[-1])
    recall = share_true[share_false <= FALSE_AREA].max()
    return float(np.trapezoid(share_true, share_false)), auprc, auprc / prevalence, float(recall)


def _of_flags(
    weight_n: np.ndarray, truth_n: np.ndarray, flag_n: np.ndarray | None, inside_n: np.ndarray
) -> tuple[float, float, float]:
    """Return F1 of the flags of one draw, and the share of changed cells that they find, of all and of those inside."""
    if flag_n is None:
        return (np.nan,) * 3
    true, flags = weight_n * truth_n, weight_n * flag_n
    sums = (np.sum(true * flag_n), np.sum(true)), (np.sum(true * flag_n * inside_n), np.sum(true * inside_n))
    f1 = 2 * sums[0][0] / (flags.sum() + sums[0][1]) if sums[0][1] else np.nan
    return (float(f1), *(float(hits / of) if of else np.nan for hits, of in sums))
