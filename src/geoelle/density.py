"""Say whether the local point density tells errors apart on ground held out.

The local point density (LPD; Schumacher et al. 2024, Geoscientific Model Development) of ground is how many chips of
the fit have an embedding within the threshold of the area of applicability: `Reach.density`. Many chips nearby promise
a smaller error; whether that promise holds is measured here, as `informativeness` does for dissimilarity.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from geoelle.applicability import Reach
from geoelle.bootstrap import Bootstrap, Interval

__all__ = ["DensityTold", "density_told", "held_out_density"]

_GROUPS = 10  # of nearly equal size, for error against density


@dataclass(frozen=True, slots=True, kw_only=True)
class DensityTold:
    """Whether a higher density goes with a smaller error on held-out ground.

    `spearman` of density and |residual|; `groups` holds (median density, mean |residual|) of at most ten groups by
    density: chips of one density are never divided, so that there are fewer where many have none.
    """

    spearman: Interval
    groups: tuple[tuple[float, float], ...]

    @property
    def is_informative(self) -> bool:
        """Say whether the interval of the correlation lies below 0; an undefined one does not."""
        return bool(self.spearman.high < 0)

    def sentence(self) -> str:
        """Say it in words."""
        if self.is_informative:
            return f"errors on ground held out are smaller where density is higher: Spearman {self.spearman}"
        return (
            f"density is not informative of the error on ground held out (Spearman {self.spearman}): many chips of the "
            "fit nearby do not make the difficulty right"
        )

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON data, NaN as None."""
        return {
            "spearman": self.spearman.to_dict(),
            "verdict": "informative" if self.is_informative else "not informative",
            "groups": [{"density": density, "error": error} for density, error in self.groups],
        }


def held_out_density(
    reach: Reach, vectors_nd: np.ndarray, folds: Iterable[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Return the LPD of (n, d) chips of the fit, (n,): of chips on the training side of the fold that tests each.

    `folds` are (train, test) row numbers; NaN for a chip that none tests. As in a map, each training chip counts at
    the reference point nearest to it.
    """
    owner_n, lpd_n = reach.nearest(vectors_nd), np.full(len(vectors_nd), np.nan)
    for train, test in folds:
        counts_m = np.bincount(owner_n[train], minlength=len(reach.counts_m))
        lpd_n[test] = replace(reach, counts_m=counts_m).density(vectors_nd[test])
    return lpd_n


def density_told(density_n: np.ndarray, error_n: np.ndarray, place_n: np.ndarray) -> DensityTold:
    """Compare the LPD with |residual|, both of held-out chips; intervals redraw whole places.

    Raises `HoldoutError` for fewer than two places.
    """
    edges = np.unique(np.percentile(density_n, np.linspace(0, 100, _GROUPS + 1)[1:-1], method="lower"))
    group_n = np.searchsorted(edges, density_n)
    return DensityTold(
        spearman=Interval.of(Bootstrap(place_n).spearman(density_n, error_n)),
        groups=tuple(
            (float(np.median(density_n[group_n == g])), float(error_n[group_n == g].mean())) for g in np.unique(group_n)
        ),
    )
