"""Draw what was held out as PNG: the map of the folds, and the distances that they are judged by."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from geoelle.errors import FormatError
from geoelle.figures import DPI, INK, MUTED, house_style, png

__all__ = ["distances", "fold_map"]

# Tol's muted set and three more: told apart by colour-blind readers too
_COLOURS = (
    "#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77",
    "#cc6677", "#882255", "#aa4499", "#ee8866", "#0072b2", "#77aadd",
)  # fmt: skip
_POINTS = 20_000
_DOMAIN = "#c9ccd1"


def fold_map(lonlat_n2: np.ndarray, fold_n: np.ndarray, domain_lonlat_m2: np.ndarray | None = None) -> bytes:
    """Draw chips at their lon/lat in degrees, coloured by the fold that tests them, over the area to be mapped.

    Twelve colours; further folds use them again. Longitudes are drawn around the sample, so that ground across
    the antimeridian hangs together. At most 20,000 chips are drawn, every so many.

    Raises:
        FormatError: no chip, or not one fold a chip.
    """
    if lonlat_n2.shape != (len(fold_n), 2) or not len(fold_n):
        raise FormatError(f"chips {lonlat_n2.shape} and folds {np.shape(fold_n)} do not match; give one fold a chip")
    step = -(-len(fold_n) // _POINTS)
    centre = _middle_lon(lonlat_n2[:, 0])
    chips, folds = _around(lonlat_n2[::step], centre), fold_n[::step]
    domain = np.empty((0, 2)) if domain_lonlat_m2 is None else _around(domain_lonlat_m2, centre)
    with house_style():
        low, high = _frame(np.concatenate([chips, domain]))
        stretch = 1 / max(np.cos(np.radians((low[1] + high[1]) / 2)), 0.1)
        tall = stretch * (high[1] - low[1]) / (high[0] - low[0])
        figure, axis = _axis(7.0, float(np.clip(5.6 * tall, 2.4, 6.0)))
        size = float(np.clip(9_000 / len(chips), 1.5, 22))
        axis.scatter(*domain.T, s=2, color=_DOMAIN, lw=0, label="area to be mapped" if len(domain) else None)
        for fold in np.unique(folds):
            colour = _COLOURS[int(fold) % len(_COLOURS)]
            axis.scatter(*chips[folds == fold].T, s=size, color=colour, lw=0, label=f"fold {int(fold) + 1}")
        axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect=stretch)
        for side, letters in ((axis.xaxis, "WE"), (axis.yaxis, "SN")):
            side.set_major_locator(MaxNLocator(5))
            side.set_major_formatter(lambda v, _, ends=letters: _degrees(v, ends))
        if len(np.unique(folds)) <= len(_COLOURS):
            axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, markerscale=2, fontsize=8)
        return png(figure)


def distances(sample_m: np.ndarray, domain_m: np.ndarray, fold_m: np.ndarray, w_m: float) -> bytes:
    """Draw how three distances to the nearest neighbour are distributed, km on a log axis, and W between two.

    `sample_m` is sample to sample, `domain_m` area to be mapped to sample, `fold_m` held-out to training chips.
    Distances below a metre are drawn at a metre.

    Raises:
        FormatError: a distance that is not finite, or none at all.
    """
    lines = {
        "sample to sample": (sample_m, MUTED, (0, (1, 1.5))),
        "area to be mapped to sample": (domain_m, INK, "-"),
        "held out to training": (fold_m, "#aa4499", "-"),
    }
    for name, (values, _, _) in lines.items():
        if not len(values) or not np.isfinite(values).all():
            raise FormatError(f"distances {name} cannot be drawn ({len(values)} values); give finite ones")
    with house_style():
        figure, axis = _axis(6.4, 3.0)
        for name, (values, colour, dashes) in lines.items():
            axis.ecdf(np.maximum(values, 1) / 1000, color=colour, ls=dashes, lw=1.6, label=name)
        axis.set(xscale="log", xlabel="distance to the nearest neighbour [km]", ylabel="share of chips or points")
        axis.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
        axis.annotate(f"W = {w_m / 1000:.3g} km", (0.02, 0.95), xycoords="axes fraction", va="top", weight="bold")
        axis.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, frameon=False, fontsize=8)
        axis.grid(color="#e3e5e8", lw=0.6)
        return png(figure)


def _axis(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="compressed")
    axis = figure.add_subplot()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _middle_lon(lon_n: np.ndarray) -> float:
    """Return the mean direction of longitudes, degrees."""
    angle = np.radians(lon_n)
    return float(np.degrees(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean())))


def _around(lonlat_n2: np.ndarray, centre: float) -> np.ndarray:
    lon = (lonlat_n2[:, 0] - centre + 180) % 360 - 180 + centre
    return np.column_stack([lon, lonlat_n2[:, 1]])


def _frame(lonlat_n2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = lonlat_n2.min(0), lonlat_n2.max(0)
    pad = max(0.04 * float((high - low).max()), 1e-3)
    return low - pad, high + pad


def _degrees(value: float, letters: str) -> str:
    wrapped = round((value + 180) % 360 - 180, 6) if letters == "WE" else round(value, 6)
    return f"{abs(wrapped):g}°{letters[int(wrapped > 0)] if wrapped else ''}"
