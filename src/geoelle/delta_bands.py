"""Say what the bands of a change are: values, units, words and colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from scipy import stats

from geoelle.change import Null
from geoelle.change_blocks import BlockCheck
from geoelle.change_states import STATUSES
from geoelle.delta import STATES, Delta
from geoelle.probe import Probe
from geoelle.style import Classes, Ramp

__all__ = ["CLASSES", "CLASS_BANDS", "DeltaBands"]

CLASSES = {
    "flagged": Classes(
        label="flagged change", names=("not flagged", "easier", "harder"), colours=("#e6e6e6", "#2065ab", "#b1182b")
    ),
    "state": Classes(
        label="state of the test", names=STATES,
        colours=("#d9d9d9", "#fdae61", "#8073ac", "#b2abd2", "#636363", "#252525"),
    ),
    "status": Classes(
        label="status of the change", names=STATUSES, colours=("#e6e6e6", "#91bfdb", "#fee090", "#d73027")
    ),
}  # fmt: skip
"""What codes mean and look like; a code of `flagged` is 0, 1 for easier or 2 for harder."""
CLASS_BANDS = ("flag", "sign", "state", "status")
"""Bands whose values do not average."""
_MANY = 0.25
_ROUGH = 1.5
_DAYS = "days since 1970-01-01"


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
        followed = {"status": "1", "first_detected": _DAYS, "duration": "d"} if self.delta.followed is not None else {}
        return {"delta": self.linear, **excess, **tested, "sign": "1", "rank": "percent", "state": "1", **followed}

    def values(self) -> dict[str, np.ndarray]:
        """Return each band, float32 (n,)."""
        found, tested = self.delta, self.delta.tested
        every = {
            "delta": found.delta_n, "delta_excess": found.excess_n, "q": found.q_n, "flag": found.flag_n,
            "t": None if tested is None else tested.t_n, "p": None if tested is None else tested.p_n,
            "sign": found.sign_n, "rank": found.rank_n, "state": found.state_n,
        }  # fmt: skip
        if (seen := found.followed) is not None:
            every |= {"status": seen.status_n, "first_detected": seen.first_n, "duration": seen.duration_n}
        return {name: np.asarray(every[name], np.float32) for name in self.units}

    def codes(self) -> dict[str, np.ndarray]:
        """Return the bands that are classes, float32 (n,), by name of `CLASSES`; NaN where a cell has none."""
        found = self.delta
        coded = {} if found.flag_n is None else {"flagged": found.flag_n * np.where(found.sign_n > 0, 2, 1)}
        coded["state"] = found.state_n
        if found.followed is not None:
            coded["status"] = found.followed.status_n
        return {name: np.asarray(codes_n, np.float32) for name, codes_n in coded.items()}

    def drawn(self) -> dict[str, np.ndarray]:
        """Return what pictures show, (n,): the change, flags with their sign, and what is outside, to be hatched."""
        found = self.delta
        outside_n = found.state_n == STATES.index("outside")
        shown = {name: values for name, values in self.values().items() if name in ("delta", "delta_excess", "t")}
        shown |= {name: codes_n for name, codes_n in self.codes().items() if name != "state"}
        return shown | {"applicable": np.where(outside_n, 0, 1).astype(np.float32)}

    def ramps(self, raster: xr.DataArray) -> dict[str, Ramp | Classes]:
        """Return the colours and legends of the bands that are drawn, zero in the middle of each ramp."""
        log = self.probe.scale == "log"
        labels = {
            "delta": "ln(difficulty after / before)" if log else "difficulty after - before",
            "delta_excess": "the same of the excess",
            "t": "t against earlier years",
        }
        names = raster["band"].values.tolist()
        unit = "" if log else self.linear
        ramps: dict[str, Ramp | Classes] = {
            name: Ramp.diverging(raster.sel(band=name).values, label=label, unit="" if name == "t" else unit)
            for name, label in labels.items()
            if name in names and np.isfinite(raster.sel(band=name).values).any()
        }  # fmt: skip
        if "flagged" in names:
            ramps["flagged"] = replace(CLASSES["flagged"], label=f"flagged at q <= {self.delta.rate:g}")
        if "status" in names:
            ramps["status"] = CLASSES["status"]
        return ramps

    def tags(self) -> dict[str, str]:
        """Return what the bands are, for the metadata of the file."""
        states, statuses = (", ".join(f"{c} {name}" for c, name in enumerate(names)) for names in (STATES, STATUSES))
        return {
            "GEOELLE_SCALE": "delta is difficulty after less before, on the linear scale of the probe"
            + (": ln(after / before)" if self.probe.scale == "log" else ""),
            "GEOELLE_STATES": states,
            "GEOELLE_TEST": self.claim(),
            **({} if self.delta.followed is None else {"GEOELLE_STATUSES": statuses}),
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
            f"t ({prior} prior degrees of freedom, {years - 1} of the years){self._deflated()}; flagged at "
            f"q <= {found.rate:g} (Benjamini and Hochberg)."
        )

    def _deflated(self) -> str:
        if (inflation := self.delta.tested.inflation) == 1:
            return ""
        return f", divided by {inflation:.2f} since the whole map differs more than those years do"

    def sentences(self) -> tuple[str, ...]:
        """Return what a reader must know, the claim first."""
        found, told = self.delta, []
        if found.unchanged is not None:
            told.append(self._unchanged())
        elif found.null is not None:
            told.append("Earlier years are too few to be judged by each other, so false alarms were not measured here.")
        if found.null is not None:
            told.append(self._beside_no_change())
        if found.followed is not None:
            told.append(self._followed())
        if found.flag_n is not None and (share := float(np.nanmean(found.flag_n))) > _MANY:
            told.append(
                f"{share:.0%} of the cells are flagged. The shift of the whole map is a median: it takes most of the "
                "ground to be unchanged, so on this map small changes may be missed, and unchanged ground flagged."
            )
        if found.tested is not None and found.tested.inflation > _ROUGH:
            told.append(
                f"The whole map differs {found.tested.inflation:.1f} times as much as earlier years do: haze, season, "
                "sensor, or a change of most of the ground, which this test takes for these."
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

    def _beside_no_change(self) -> str:
        years, blocks, told = self.delta.years, self.delta.blocks, ""
        if years is not None:
            told = (
                f"Among {years.years} whole years, the date after one, a share of {years.p:.2g} has as many flags or "
                f"more (exact; the least that can be is {1 / years.years:.2g}). "
            )
        if blocks is None:
            return told + (
                "Flags were not compared with maps without the change: that takes four earlier years, or three for "
                "dates of two seasons, and ground as wide as two blocks."
            )
        return told + _blocks(blocks)

    def _followed(self) -> str:
        seen = self.delta.followed
        told = ", ".join(f"{seen.counts[name]:,} cells {name}" for name in reversed(STATUSES[1:]))
        shared = "one date before" if self.delta.design == "difference" else "the same earlier years"
        return (
            f"Followed through {len(self.delta.looks)} dates after: {told}, {seen.counts['none']:,} never flagged. All "
            f"are compared with {shared}, so a confirmation is not independent of the first flag."
        )


def _blocks(found: BlockCheck) -> str:
    """Say how the flags compare with those of maps made of earlier years."""
    side = f"{found.blocks:,} blocks of {found.block_m / 1000:.3g} km"
    alike = "" if np.isnan(found.range_m) else f", t being alike up to {found.range_m / 1000:.2g} km"
    rule = (
        f"Of {found.shuffles} maps without the change, put together of pieces of earlier years ({side}{alike}), a "
        f"share of {found.p_flagged:.3g} has as many flagged cells, {found.p_largest:.3g} as large a cluster"
    )
    if not found.flagged:
        return "No cell is flagged, so there is nothing to compare with maps without the change."
    return (
        f"{rule}. At the p of the flags they have {found.expected:.3g} cells on average, and {found.most:.3g} or more "
        f"in one of twenty, against {found.flagged:,}: {found.false_share:.1%} of the flags may be false by this count."
    )
