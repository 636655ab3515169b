"""Choose the extreme chips of a run: hardest, easiest, most excessive, most surprising; and the worst cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import geopandas
import numpy as np
import pandas as pd

from geoelle.embeddings import Embeddings
from geoelle.errors import GeoelleError
from geoelle.measures import Measures, most_apart, percentiles
from geoelle.probe import Probe
from geoelle.route import Route, clusters, plan_route

__all__ = ["BY", "LISTS", "Asked", "Chosen", "Listing", "Ranking", "rank_chips"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Name a list of extremes: of which measure, from which end, and what a place on it means."""

    name: str
    measure: str
    title: str
    meaning: str
    highest: bool = True


LISTS = (
    Listing(name="hardest", measure="difficulty", title="Hardest", meaning="The highest difficulty."),
    Listing(name="easiest", measure="difficulty", title="Easiest", meaning="The lowest difficulty.", highest=False),
    Listing(
        name="excess-high", measure="excess", title="Most excessive",
        meaning="Harder for the model than the texture of the pixels warrants.",
    ),
    Listing(
        name="excess-low", measure="excess", title="Least excessive", highest=False,
        meaning="Easier for the model than the texture of the pixels warrants.",
    ),
    Listing(
        name="surprise-high", measure="surprise", title="Most surprising",
        meaning="Embeddings furthest from the mean of this run (Mahalanobis distance, shrunk covariance).",
    ),
    Listing(
        name="surprise-low", measure="surprise", title="Least surprising", highest=False,
        meaning="Embeddings nearest to the mean of this run (Mahalanobis distance, shrunk covariance).",
    ),
    Listing(
        name="residual-high", measure="residual", title="Loss above difficulty",
        meaning="The true loss is above what the probe predicts: ground it does not know to be hard.",
    ),
    Listing(
        name="residual-low", measure="residual", title="Loss below difficulty", highest=False,
        meaning="The true loss is below what the probe predicts: ground it takes for harder than it is.",
    ),
)  # fmt: skip
BY = tuple(dict.fromkeys(each.measure for each in LISTS))
_USUAL = ("hardest", "easiest", "excess-high", "surprise-high")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a user asks for: both ends of one measure, or the four usual lists; `above` a percentile for a route."""

    by: str | None = None
    top: int = 24
    above: float | None = None

    @property
    def lists(self) -> tuple[Listing, ...]:
        """Return the lists asked for."""
        return tuple(each for each in LISTS if each.measure == self.by or (self.by is None and each.name in _USUAL))

    @property
    def measure(self) -> str:
        """Return what a route is of."""
        return self.by or "difficulty"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """A list and the chips on it, best first."""

    listing: Listing
    chips: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranking:
    """Hold the extremes of a run; `notes` says what could not be had, `threshold` the least value on the route."""

    asked: Asked
    probe: Probe
    measures: Measures
    lists: tuple[Chosen, ...]
    route: Route | None = None
    threshold: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def chips(self) -> np.ndarray:
        """Return the chips of all lists, each once."""
        return np.array(list(dict.fromkeys(chip for each in self.lists for chip in each.chips.tolist())), np.int64)

    @property
    def table(self) -> geopandas.GeoDataFrame:
        """Return one row a place on a list, with every measure, its percentile in the run and the chip's outline."""
        return pd.concat([self._rows(each) for each in self.lists], ignore_index=True)

    def to_dict(self) -> dict[str, Any]:
        """Return what `--dry-run --json` prints."""
        lattice = self.measures.tables[0].addresses.lattice
        facts: dict[str, Any] = {
            "model": self.probe.space["model"], "valid": len(self.measures), "measures": list(self.measures.known),
            "lists": {each.listing.name: len(each.chips) for each in self.lists},
            "pictures": len(self.chips), "chip_m": lattice.size_px * lattice.gsd_m, "notes": list(self.notes),
        }  # fmt: skip
        if self.route is not None:
            facts["route"] = {
                "measure": self.asked.measure, "above_percentile": self.asked.above, "least": self.threshold,
                "clusters": len(self.route.clusters), "stops": len(self.route.line_m2), "km": round(self.route.km, 3),
                "area_km2": round(float(self.route.clusters["area_km2"].sum()), 4),
            }  # fmt: skip
        return facts

    def _rows(self, each: Chosen) -> geopandas.GeoDataFrame:
        found = [self.measures.at(chip) for chip in each.chips.tolist()]
        measured = {name: self.measures.values(name) for name in self.measures.known}
        columns: Mapping[str, Any] = {
            "list": each.listing.name,
            "rank": np.arange(1, len(found) + 1),
            "address": [str(table.addresses[row]) for table, row in found],
            "lon": [table.addresses[row].lonlat[0] for table, row in found],
            "lat": [table.addresses[row].lonlat[1] for table, row in found],
            "time": pd.to_datetime([table.times_n[row] for table, row in found], utc=True).as_unit("ms"),
            "items": [table.items_n[row] for table, row in found],
            **{name: values_n[each.chips] for name, values_n in measured.items()},
            **{f"{name}_percentile": percentiles(values_n)[each.chips] for name, values_n in measured.items()},
        }
        outlines = [table.addresses[row].footprint for table, row in found]
        return geopandas.GeoDataFrame(columns, geometry=outlines, crs=4326)


def rank_chips(tables: Sequence[Embeddings], probe: Probe, asked: Asked) -> Ranking:
    """Measure every valid chip and choose those of each list; none on a list overlaps a better one on it.

    Unless a measure is asked for, the list of one that probe or tables cannot tell is left out, and noted.

    Raises:
        ProbeError: probe or tables lack what `by` needs, or a single chip is valid.
        SpaceMismatch: the probe is of another space.
        ReadError: no chip is valid.
        GeoelleError: nothing lies above the percentile.
    """
    measures = Measures.of(tables, probe)
    notes: list[str] = []
    lists: list[Chosen] = []
    for each in asked.lists:
        if asked.by is None and each.measure not in measures.known:
            notes.append(f"{each.title}: left out, for the probe has no pixel part or the run no features.")
            continue
        chips = most_apart(measures, measures.values(each.measure), top=asked.top, highest=each.highest)
        if len(chips) < asked.top:
            notes.append(f"{each.title}: {len(chips)} chips, not {asked.top}; every other one overlaps one of these.")
        lists.append(Chosen(listing=each, chips=chips))
    route, threshold = (None, None) if asked.above is None else _route(measures, asked)
    if route is not None and len(route.line_m2) < len(route.clusters):
        notes.append(f"The way visits the {len(route.line_m2)} largest of {len(route.clusters)} clusters.")
    return Ranking(
        asked=asked, probe=probe, measures=measures, lists=tuple(lists), route=route, threshold=threshold,
        notes=tuple(notes),
    )  # fmt: skip


def _route(measures: Measures, asked: Asked) -> tuple[Route, float]:
    values_n = measures.values(asked.measure)
    above_n = percentiles(values_n) > asked.above
    if not above_n.any():
        raise GeoelleError(
            f"no route can be made: none of {len(measures)} cells lies above percentile {asked.above:g} of "
            f"{asked.measure}; lower --above"
        )
    parts, start = [], 0
    for table in measures.tables:
        rows = slice(start, start := start + len(table))
        if above_n[rows].any():
            parts.append(clusters(table.addresses[above_n[rows]], values_n[rows][above_n[rows]]))
    return plan_route(parts), float(values_n[above_n].min())
