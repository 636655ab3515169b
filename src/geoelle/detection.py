"""Score a ranking of cells against labels of change, with intervals that redraw whole blocks of ground."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

__all__ = ["BLOCK_CHIPS", "FALSE_AREA", "MIN_BLOCKS", "Detection", "block_cells", "blocks_of", "detect", "read_truth"]

BLOCK_CHIPS = 2
"""Chips along a side of a block: neighbours that share pixels are redrawn together."""
MIN_BLOCKS = 8
"""Blocks that an interval needs: redrawn from fewer, it would be far too narrow."""
FALSE_AREA = 0.01
"""Share of the unchanged cells that may be alarms, for the recall."""
_FINE = 4  # steps along a side of a cell to measure how much of it is labelled
_DRAWS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """How well a measure ranks changed cells above others, with 95% intervals; NaN where undefined.

    Ends of intervals are NaN where the cells lie in fewer than `MIN_BLOCKS` blocks.
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
        titles = {
            "AUROC": self.auroc, "AUPRC": self.auprc, "AUPRC / prevalence": self.lift,
            f"recall at {FALSE_AREA:.0%} false alarms": self.recall, "F1 of flags": self.f1,
            "recall of flags": self.flagged, "the same, cells outside left out": self.flagged_inside,
        }  # fmt: skip
        return {title: str(found) if np.isfinite(found.low) else _alone(found) for title, found in titles.items()}

    def to_dict(self) -> dict[str, dict[str, float | None]]:
        """Return plain JSON data, NaN as None."""
        return {name: getattr(self, name).to_dict() for name in self.__slots__}


def read_truth(path: Path, zones: Sequence[Addresses]) -> list[np.ndarray | None]:
    """Return for each zone 1 for cells of which labels cover half or more, else 0, float64 (n,).

    `path` is GeoJSON or GeoParquet of polygons in any CRS. Ground without a label counts as unchanged. A zone of which
    every cell or none is labelled cannot be scored: None.

    Raises: FormatError (unreadable, no CRS, not valid polygons, or no zone can be scored).
    """
    labels = _read(path)
    truths = [_truth(labels, addresses) for addresses in zones]
    if not any(0 < truth_n.mean() < 1 for truth_n in truths):
        marked, cells = int(sum(map(np.sum, truths))), sum(map(len, truths))
        where = ", ".join(f"{degrees:.4g}" for degrees in labels.to_crs(4326).total_bounds)
        raise FormatError(
            f"{path} labels {marked} of {cells} cells (its polygons lie in {where} degrees); give labels of some of "
            "this ground"
        )
    return [truth_n if 0 < truth_n.mean() < 1 else None for truth_n in truths]


def blocks_of(addresses: Addresses, chip_px: int) -> np.ndarray:
    """Number the blocks of ground that cells lie in, int64 (n,): squares of `BLOCK_CHIPS` chips a side.

    `chip_px` is the side of the chips that the model saw: cells may be patches of them.
    """
    side = block_cells(addresses, chip_px)
    return (addresses.rows // side << 32) + addresses.cols // side


def block_cells(addresses: Addresses, chip_px: int) -> int:
    """Return how many cells a block has along a side.

    >>> from geoelle.lattice import Lattice
    >>> grids = (Lattice(epsg=32631, gsd_m=10, size_px=size, stride_px=step) for size, step in ((32, 16), (4, 4)))
    >>> [block_cells(Addresses(grid, [0], [0]), 32) * grid.cell_m for grid in grids]
    [640.0, 640.0]
    """
    return max(BLOCK_CHIPS * chip_px // addresses.lattice.stride_px, 1)


def detect(
    size_n: np.ndarray, truth_n: np.ndarray, block_n: np.ndarray, flag_n: np.ndarray | None = None,
    inside_n: np.ndarray | None = None,
) -> Detection:  # fmt: skip
    """Score a measure: a cell of larger `size_n` should be one where `truth_n` is 1. Cells of NaN are left out.

    `inside_n` is False for cells outside the area of applicability after (all inside where it
    is not given). AUPRC is the average precision. Fewer than `MIN_BLOCKS` blocks give values without intervals.

    >>> found = detect(np.arange(16.0), np.arange(16) > 11, np.arange(16) % 8).auroc
    >>> found.value, found.low, detect(np.arange(16.0), np.arange(16) > 11, np.arange(16) % 7).auroc.low
    (1.0, 1.0, nan)
    """
    known_n = np.isfinite(size_n)
    size_n, truth_n = np.asarray(size_n)[known_n], np.asarray(truth_n, np.float64)[known_n]
    weights_dn = _weights(block_n[known_n])
    order = np.argsort(-size_n, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(size_n[order])), len(order) - 1)
    flag = None if flag_n is None else np.nan_to_num(flag_n[known_n])
    inside = np.ones(len(size_n)) if inside_n is None else inside_n[known_n].astype(np.float64)
    found = np.array([
        (*_one(w_n, truth_n, order, ends), *_of_flags(w_n, truth_n, flag, inside))
        for w_n in weights_dn
    ])  # fmt: skip
    return Detection(**dict(zip(Detection.__slots__, map(_interval, found.T), strict=True)))


def _weights(block_n: np.ndarray) -> Iterator[np.ndarray]:
    """Yield how often each cell counts, (n,): once, then as often as its block is redrawn, where blocks are enough."""
    if len(np.unique(block_n)) < MIN_BLOCKS:
        yield np.ones(len(block_n))
        return
    draws = Bootstrap(block_n, n_draws=_DRAWS)
    yield from (counts_p[draws.place_n] for counts_p in draws.counts_dp)


def _interval(draws: np.ndarray) -> Interval:
    return Interval.of(draws) if len(draws) > 1 else Interval(value=float(draws[0]), low=np.nan, high=np.nan)


def _alone(found: Interval) -> str:
    return f"{found.value:.3f}" if np.isfinite(found.value) else "-"


def _read(path: Path) -> geopandas.GeoSeries:
    try:
        table = geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path)
        labels = table.geometry.dropna()
    except Exception as cause:  # drivers raise what they like
        raise FormatError(f"{path} holds no labels ({cause}); give GeoJSON or GeoParquet of polygons") from cause
    if labels.crs is None:
        raise FormatError(f"{path} does not say its CRS; write the labels with one")
    if not len(labels) or (shapely.get_dimensions(labels.to_numpy()) != 2).any():
        raise FormatError(f"{path} holds no polygons, or other shapes too; give polygons of what changed")
    if not labels.is_valid.all():
        row = int(np.flatnonzero(~labels.is_valid)[0])
        reason = shapely.is_valid_reason(labels.iloc[row])
        raise FormatError(f"label {row + 1} of {path} is not valid ({reason}); repair it (shapely.make_valid)")
    return labels


def _truth(labels: geopandas.GeoSeries, addresses: Addresses) -> np.ndarray:
    shapes = labels.to_crs(addresses.lattice.epsg)
    shapes = shapes[np.isfinite(shapes.bounds).all(axis=1)]  # the CRS of a zone does not reach every place
    box = addresses.lattice.raster_geobox(addresses.rows, addresses.cols)
    if not len(shapes):
        return np.zeros(len(addresses))
    shape = tuple(n * _FINE for n in box.shape)
    fine_yx = rasterize(list(shapes), out_shape=shape, transform=box.affine * Affine.scale(1 / _FINE), dtype="uint8")
    share_yx = fine_yx.reshape(box.shape[0], _FINE, box.shape[1], _FINE).mean(axis=(1, 3))
    covered_n = share_yx[addresses.rows - addresses.rows.min(), addresses.cols - addresses.cols.min()] >= 0.5
    return covered_n.astype(np.float64)


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
