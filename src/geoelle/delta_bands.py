"""Say what the bands of a change are: values, units, words and colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy import stats

from geoelle.change import Null
from geoelle.delta import STATES, Delta
from geoelle.probe import Probe
from geoelle.style import Ramp

__all__ = ["DeltaBands"]

_MANY = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaBands:
    """The bands of one change, by the probe that scored both dates."""

    delta: Delta
    probe: Probe

    @property
    def linear(self) -> str:
        """Return the unit of the probe's linear scale."""
        return "ln" if self.probe.scale == "log" else str(self.probe.data.get("unit", ""))

    @property
    def units(self) -> dict[str, str]:
        """Return the unit of each band by its name, in the order of the bands."""
        excess = {"delta_excess": self.linear} if self.delta.excess_n is not None else {}
        tested = dict.fromkeys(("t", "p", "q", "flag"), "1") if self.delta.tested is not None else {}
        return {"delta": self.linear, **excess, **tested, "sign": "1", "rank": "percent", "state": "1"}

    def values(self) -> dict[str, np.ndarray]:
        """Return each band, float32 (n,)."""
        found, tested = self.delta, self.delta.tested
        every = {
            "delta": found.delta_n, "delta_excess": found.excess_n, "q": found.q_n, "flag": found.flag_n,
            "t": None if tested is None else tested.t_n, "p": None if tested is None else tested.p_n,
            "sign": found.sign_n, "rank": found.rank_n, "state": found.state_n,
        }  # fmt: skip
        return {name: np.asarray(every[name], np.float32) for name in self.units}

    def drawn(self) -> dict[str, np.ndarray]:
        """Return what pictures show, (n,): the change, flags with their sign, and what is outside, to be hatched."""
        found = self.delta
        outside_n = found.state_n == STATES.index("outside")
        shown = {name: values for name, values in self.values().items() if name in ("delta", "delta_excess", "t")}
        if found.flag_n is not None:
            shown["flagged"] = (found.flag_n * found.sign_n).astype(np.float32)
        return shown | {"applicable": np.where(outside_n, 0, 1).astype(np.float32)}

    def ramps(self, raster: xr.DataArray) -> dict[str, Ramp]:
        """Return the colours and legends of the bands that are drawn, zero in the middle of each."""
        log = self.probe.scale == "log"
        labels = {
            "delta": "ln(difficulty after / before)" if log else "difficulty after - before",
            "delta_excess": "the same of the excess",
            "t": "t against earlier years",
        }
        names = raster["band"].values.tolist()
        unit = "" if log else self.linear
        ramps = {
            name: Ramp.diverging(raster.sel(band=name).values, label=label, unit="" if name == "t" else unit)
            for name, label in labels.items()
            if name in names and np.isfinite(raster.sel(band=name).values).any()
        }  # fmt: skip
        if "flagged" in names:
            ramps["flagged"] = Ramp(
                name="RdBu_r", low=-1.0, high=1.0, label=f"flagged at q <= {self.delta.rate:g}: easier -1, harder 1"
            )
        return ramps

    def tags(self) -> dict[str, str]:
        """Return what the bands are, for the metadata of the file."""
        states = ", ".join(f"{code} {name}" for code, name in enumerate(STATES))
        return {
            "GEOELLE_SCALE": "delta is difficulty after less before, on the linear scale of the probe"
            + (": ln(after / before)" if self.probe.scale == "log" else ""),
            "GEOELLE_STATES": states,
            "GEOELLE_TEST": self.claim(),
        }

    def claim(self) -> str:
        """Say in one sentence what is claimed, and by which test."""
        found = self.delta
        if found.null is None:
            return (
                "A ranking only: no history was given, so nothing is tested. No p-value, no flag, no false-alarm rate."
            )
        years, dof = len(found.null.shifts_r), found.null.prior.dof
        prior = "infinite" if np.isinf(dof) else f"{dof:.1f}"
        how = (
            f"the difference of both dates is compared with what {years} earlier years of the season differ by"
            if found.design == "difference"
            else f"the dates are of two seasons, so delta holds the season too; t, p and q compare the date after with "
            f"{years} earlier years of its own season"
        )
        return (
            f"Tested: {how}, less the shift of the whole map ({found.tested.shift:+.3g} {self.linear}), by a moderated "
            f"t ({prior} prior degrees of freedom, {years - 1} of the years); flagged at q <= {found.rate:g} "
            "(Benjamini and Hochberg)."
        )

    def sentences(self) -> tuple[str, ...]:
        """Return what a reader must know, the claim first."""
        found, told = self.delta, []
        if found.unchanged is not None:
            told.append(self._unchanged())
        elif found.null is not None:
            told.append("Earlier years are too few to be judged by each other, so false alarms were not measured here.")
        if found.flag_n is not None and (share := float(np.nanmean(found.flag_n))) > _MANY:
            told.append(
                f"{share:.0%} of the cells are flagged. The shift of the whole map is a median: it takes most of the "
                "ground to be unchanged, so on this map small changes may be missed, and unchanged ground flagged."
            )
        if (outside := found.counts["outside"]) and self.probe.reach is not None:
            told.append(f"{outside:,} cells lie outside the area of applicability after; they are judged all the same.")
        if self.probe.reach is None:
            told.append("The probe has no area of applicability: no cell was held back for looking unlike its sample.")
        missed = {n: found.counts[n] for n in STATES[2:] if found.counts[n] and (found.null or "look" in n)}
        if missed:
            told.append("Not judged: " + ", ".join(f"{n:,} cells ({name})" for name, n in missed.items()) + ".")
        return (self.claim(), *told)

    def facts(self) -> Mapping[str, str]:
        """Return the numbers of the test, as rows of a page."""
        found, null = self.delta, self.delta.null
        rows = {"Cells": ", ".join(f"{count:,} {name}" for name, count in found.counts.items())}
        rows["Shift of the whole map"] = (
            f"{found.shift:+.4g} {self.linear}, the median Delta, taken out of sign and rank"
        )
        if isinstance(null, Null):
            rows["Shifts of earlier years"] = ", ".join(f"{shift:+.3g}" for shift in null.shifts_r) + f" {self.linear}"
            rows["Spread between years"] = f"{float(np.nanmedian(null.sd_n)):.3g} {self.linear} in the middle cell"
        return rows

    def _unchanged(self) -> str:
        found = self.delta.unchanged
        low, high = stats.binomtest(found.maps, len(found.shares)).proportion_ci(method="exact")
        known = np.isfinite(self.delta.flag_n)
        now = float(np.nanmean(self.delta.flag_n)) if known.any() else 0.0
        return (
            f"Of {len(found.shares)} years judged by the others, {found.maps} have any flag (95% interval of the "
            f"share {low:.2f} to {high:.2f}), on {np.mean(found.shares):.2%} of their cells, {max(found.shares):.2%} "
            f"at most; between these dates {now:.2%} are flagged. In those years {found.below:.1%} of p are below "
            "0.05, where 5% are expected."
        )
