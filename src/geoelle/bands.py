"""Say what the bands of a map are: values, units, words and colours of what a probe can tell.

Difficulty, complexity, excess and date are in every map; the ends of an interval, and the area of applicability with
dissimilarity and local density, are where the probe has a spread and a reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from geoelle.dense import PatchScores, dense_layers
from geoelle.embeddings import Embeddings
from geoelle.probe import Probe
from geoelle.style import Ramp

__all__ = ["Bands"]

EPOCH = np.datetime64("1970-01-01", "s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bands:
    """The bands that a probe gives a map; with `expected`, difficulty is the mean loss instead of the typical one.

    A `dense` map has the spread over its offsets, and no interval: that of a probe of patches is of single patches seen
    from one offset, not of their mean. Its reach is that of the token from the chip that has the patch in its middle.

    Raises `ProbeError` where the mean loss is asked of a probe that cannot tell it.
    """

    probe: Probe
    expected: bool = False
    dense: bool = False

    def __post_init__(self) -> None:
        if self.expected:
            self.probe.check_expected()

    @property
    def unit(self) -> str:
        """Return the unit of the loss."""
        return str(self.probe.data.get("unit", ""))

    @property
    def units(self) -> dict[str, str]:
        """Return the unit of each band by its name, in the order of the bands."""
        linear = "ln" if self.probe.scale == "log" else self.unit
        units = {
            "difficulty": self.unit,
            "complexity": self.unit,
            "excess": linear,
            "date": "days since 1970-01-01",
        }
        if self.dense:
            reach = {} if self.probe.reach is None else {"applicable": "1", "dissimilarity": "1"}
            return units | {"shift_sd": linear, "offsets": "1"} | reach
        if self.probe.spread is not None:
            units |= {"lower": self.unit, "upper": self.unit}
        if self.probe.reach is not None:
            units |= {"applicable": "1", "dissimilarity": "1", "density": "1"}
        return units

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the bands in order."""
        return tuple(self.units)

    def values(self, embeddings: Embeddings) -> dict[str, np.ndarray]:
        """Return each band, float32 (n,): NaN where a chip is not valid."""
        probe, vectors_nd = self.probe, embeddings.vectors_nd
        days = (embeddings.times_n - EPOCH) / np.timedelta64(1, "D")
        values = {
            "difficulty": probe.expected(vectors_nd) if self.expected else probe.score(vectors_nd),
            "complexity": probe.complexity(embeddings.features_nf),
            "excess": probe.excess(vectors_nd, embeddings.features_nf),
            "date": np.where(embeddings.valid_n, days, np.nan).astype(np.float32),
        }
        if probe.spread is not None:
            values |= dict(zip(("lower", "upper"), probe.interval(vectors_nd), strict=True))
        if probe.reach is not None:
            dissimilarity_n = probe.reach.dissimilarity(vectors_nd)
            values["applicable"] = probe.reach.inside(dissimilarity_n)
            values["dissimilarity"] = dissimilarity_n.astype(np.float32)
            values["density"] = probe.reach.density(vectors_nd).astype(np.float32)
        return values

    def of_patches(self, scores: PatchScores) -> dict[str, np.ndarray]:
        """Return each band of a dense map, float32 (n,)."""
        values = dense_layers(scores, self.probe)
        if self.expected:
            values["difficulty"] = (values["difficulty"] * self.probe.smearing).astype(np.float32)
        if self.probe.reach is not None:
            values["applicable"] = self.probe.reach.inside(scores.dissimilarity_n)
            values["dissimilarity"] = scores.dissimilarity_n
        return values

    def ramps(self, raster: xr.DataArray) -> dict[str, Ramp]:
        """Return the colours and legends of the bands that are drawn."""
        typical = "typical loss" if self.probe.scale == "log" and not self.expected else "expected loss"
        told = "ln(difficulty / complexity)" if self.probe.scale == "log" else "difficulty - complexity"
        difficulty, complexity, excess = (raster.sel(band=b).values for b in ("difficulty", "complexity", "excess"))
        ramps = {
            "difficulty": Ramp.sequential(difficulty, label=typical, unit=self.unit),
            "complexity": Ramp.sequential(complexity, label="what pixels alone predict", unit=self.unit),
            "excess": Ramp.diverging(excess, label=told),
        }
        if self.dense:
            spread = raster.sel(band="shift_sd").values
            ramps["shift_sd"] = Ramp.sequential(spread, label="spread over offsets", unit=self.units["shift_sd"])
        return ramps

    def tags(self) -> dict[str, str]:
        """Return what the bands are, for the metadata of the file."""
        tags, told = {"GEOELLE_SCALE": self._scale()}, self._sentences()
        if self.probe.spread is not None and not self.dense:
            level = f"an interval of {100 * (1 - self.probe.spread.alpha):g}%, whose coverage was not measured"
            tags["GEOELLE_INTERVAL"] = f"lower, upper: {told.get('interval', level)}"
        if self.probe.reach is not None:
            area = (
                f"applicable is a dissimilarity of at most {self.probe.reach.threshold:.3g}, not compared with errors"
            )
            tags["GEOELLE_REACH"] = told.get("reach", area)
        if self.probe.reach is not None and not self.dense:
            tags["GEOELLE_DENSITY"] = told.get("density", f"{self.probe.reach.counted()}, not compared with errors")
        return tags

    def warnings(self) -> tuple[str, ...]:
        """Return what the probe says about intervals, mean loss and reach, and what it lacks, a sentence each."""
        if self.dense:
            return tuple(told for name, told in self._sentences().items() if name == "reach")
        return (*self._sentences().values(), *self.probe.trust.get("notes", ()))

    def _sentences(self) -> Mapping[str, str]:
        return self.probe.trust.get("sentences", {})

    def _scale(self) -> str:
        if self.probe.scale == "raw":
            return "fitted on the loss: difficulty is an expected loss; excess is difficulty - complexity"
        if self.expected:
            return (
                f"fitted on log-loss: difficulty is an expected loss, {self.probe.smearing:.4g} times the typical "
                "(median) one; complexity is typical, excess is ln(typical difficulty / complexity)"
            )
        return "fitted on log-loss: difficulty is a typical (median) loss; excess is ln(difficulty / complexity)"
