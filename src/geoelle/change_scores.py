"""Score Delta and its baselines against labels of change, zone by zone, over one division of the ground into blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geoelle.change_baselines import Measured
from geoelle.delta import STATES, Delta
from geoelle.detection import MIN_BLOCKS, Detection, block_cells, blocks_of, detect, read_truth
from geoelle.lattice import Lattice

__all__ = ["ZoneScores", "score_zones"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneScores:
    """The scores of one zone, a `Detection` a measure in their order, and what they rest on.

    `prevalence` is the share of the cells with Delta that are labelled; `blocks` of `block_m` metres a side hold them.
    """

    prevalence: float
    block_m: float
    blocks: int
    detections: tuple[Detection, ...]

    def facts(self) -> dict[str, str]:
        """Return rows of a page."""
        few = "" if self.blocks >= MIN_BLOCKS else f": too few for intervals, which need {MIN_BLOCKS}"
        return {
            "Prevalence": f"{self.prevalence:.2%} of the cells are labelled as changed",
            "Intervals redraw": f"{self.blocks:,} blocks of {self.block_m / 1000:g} km a side{few}",
        }

    def to_dict(self) -> dict[str, float | int]:
        """Return what the manifest says beside the rows."""
        return {"prevalence": self.prevalence, "block_m": self.block_m, "blocks": self.blocks}


def score_zones(
    labels: Path, zones: Mapping[Lattice, Delta], measures: Mapping[Lattice, Sequence[Measured]], *, chip_px: int
) -> dict[Lattice, ZoneScores]:
    """Score every measure in the zones that have labels; others are left out.

    `chip_px` is the side of the chips that the model saw.

    Raises: FormatError (labels that cannot be read, or of other ground).
    """
    truths = read_truth(labels, [delta.addresses for delta in zones.values()])
    return {
        lattice: _score(zones[lattice], measures[lattice], truth_n, chip_px)
        for lattice, truth_n in zip(zones, truths, strict=True)
        if truth_n is not None
    }


def _score(delta: Delta, measures: Sequence[Measured], truth_n: np.ndarray, chip_px: int) -> ZoneScores:
    cells, block_n = delta.addresses, blocks_of(delta.addresses, chip_px)
    known_n, inside_n = np.isfinite(measures[0].size_n), delta.state_n != STATES.index("outside")
    return ZoneScores(
        prevalence=float(truth_n[known_n].mean()),
        block_m=block_cells(cells, chip_px) * cells.lattice.cell_m,
        blocks=len(np.unique(block_n[known_n])),
        detections=tuple(detect(each.size_n, truth_n, block_n, each.flag_n, inside_n) for each in measures),
    )
