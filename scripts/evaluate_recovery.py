"""Measure whether the recovery index says anything of clear-cuts, and write it into docs/delta-series.json.

    python scripts/evaluate_recovery.py [--imagery FOLDER] [--weights galileo.nano=FOLDER] [--cache FOLDER]

The demo catalogue needs nothing; the whole source of it, and another model, need the imagery.
What is measured stands in docs/protocol-recovery.md, which was committed before any of the results was looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import numpy as np
import torch

import delta_page
import recovery_ground
from delta_kits import OTHER_BANDS, nano_kit, other_kit
from delta_nulls import RANDOM, Kit
from delta_seen import Reader
from delta_series import BAND_SETS, Image, forest
from delta_words import exact
from geoelle.bootstrap import Bootstrap, Interval
from geoelle.drift import AFTER_DAYS, FIRST, recovery_of
from geoelle.errors import ProbeError
from geoelle.seasonal import Season, fit_season, years_of
from geoelle.series import INSIDE
from given import folders_of
from recovery_ground import Ground, Seen, ground
from recovery_places import Place, cut_places, months_of, placebos, uncut

TENTH = 0.1
"""Of unchanged places, at most so many depart."""
LEAST = 5
"""Places from which on indices are judged."""
SEASONS = (1, 2, 3)
"""Years after that of the event, at the end of which the index is taken."""
WAYS = {"as shipped": range(1, 13), "June and July": (6, 7)}
"""Months of the dates after the event that an index sees."""
CURVE_DAYS = 10
NAMED = ("difficulty", "true loss", "NDVI")
"""Measures that are kept place by place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """The mean of the first departures after the event, and half the width of the band there."""

    initial: float
    half: float

    @property
    def beyond(self) -> bool:
        return abs(self.initial) > self.half

    @property
    def size(self) -> float:
        return abs(self.initial) / self.half


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A place with its departures by measure; `indices` by measure, way and season; `placebos` are judged places too."""

    place: Place
    departures: dict[str, Departure]
    indices: dict[str, dict[str, dict[int, dict[str, float]]]] = field(default_factory=dict)
    placebos: tuple[dict[str, Departure], ...] = ()

    def rank(self, name: str) -> float:
        """Return the share of placebos that depart less, ties half."""
        own, others = self.departures[name].size, [p[name].size for p in self.placebos]
        return float(np.mean([(own > o) + (own == o) / 2 for o in others]))

    def apart(self, name: str) -> float:
        """Return the departure less the mean of the placebos, in half-widths of the band of the place."""
        own = self.departures[name]
        return (own.initial - float(np.mean([p[name].initial for p in self.placebos]))) / own.half


def sides(seen: Seen, place: Place) -> tuple[np.ndarray, np.ndarray]:
    """Return which dates the season is fitted to, and which lie after the event, bool; dates between are in neither."""
    year_d = years_of(seen.days_d)
    return (year_d < place.year) & (seen.inside_d >= INSIDE), seen.days_d >= place.event_day


def season_of(seen: Seen, place: Place, name: str) -> Season:
    """Fit the season of a measure before the event. Raises: ProbeError (too few dates)."""
    before_d, _ = sides(seen, place)
    return fit_season(seen.days_d[before_d], seen.numbers[name][before_d])


def departure(season: Season, seen: Seen, place: Place, name: str) -> Departure:
    """Return the initial departure as `recovery_of` takes it, and the band that it is held against.

    Raises: ProbeError (too few dates soon after the event, or dates in a season not seen before).
    """
    _, after_d = sides(seen, place)
    first = np.flatnonzero(after_d & (seen.days_d <= place.event_day + AFTER_DAYS))[:FIRST]
    days, values = seen.days_d[first], seen.numbers[name][first]
    found = Departure(
        initial=float((values - season.expected(days)).mean()), half=float(season.half_width(days).mean())
    )
    if len(first) < FIRST or not np.isfinite(found.initial):
        raise ProbeError(f"no departure can be told: {len(first)} known dates soon after the event; give more dates")
    return found


def departures(seen: Seen, place: Place) -> dict[str, Departure]:
    """Return every measure's departure. Raises: ProbeError (as `departure`)."""
    return {name: departure(season_of(seen, place, name), seen, place, name) for name in seen.numbers}


def indices(season: Season, seen: Seen, place: Place, name: str) -> dict[str, dict[int, dict[str, float]]]:
    """Return the index of recovery by way, at the end of each season after the event that has one."""
    before_d, after_d = sides(seen, place)
    before = seen.days_d[before_d], seen.numbers[name][before_d]
    found: dict[str, dict[int, dict[str, float]]] = {}
    for way, months in WAYS.items():
        for late in SEASONS:
            kept_d = after_d & np.isin(months_of(seen.days_d), list(months))
            kept_d &= years_of(seen.days_d) <= place.year + late
            if years_of(seen.days_d).max() < place.year + late:
                continue
            after = seen.days_d[kept_d], seen.numbers[name][kept_d]
            try:
                found.setdefault(way, {})[late] = asdict(recovery_of(season, before, after, place.event_day))
            except ProbeError:  # too few dates of these months, or the first of them inside the band: no index
                continue
    return found


def judged(of: Ground, place: Place, others: Sequence[Place]) -> Judged:
    """Judge a cut place and its placebos; a placebo that cannot be judged counts in nothing.

    Raises: ProbeError (the place itself cannot be, or none of its placebos).
    """
    seen = of.of(place.cells_k)
    found, told = departures(seen, place), {}
    for name, one in found.items():
        if one.beyond and not name.startswith(RANDOM):
            told[name] = indices(season_of(seen, place, name), seen, place, name)
    rows = []
    for other in others:
        try:
            rows.append(departures(of.of(other.cells_k), other))
        except ProbeError:
            continue
    if not rows:
        raise ProbeError(
            f"no placebo of {len(place.cells_k)} patches: uncut ground has no room for one; give more ground"
        )
    return Judged(place=place, departures=found, indices=told, placebos=tuple(rows))


def everything(of: Ground) -> tuple[list[Judged], list[str], dict[str, int]]:
    """Judge all cuts of a ground; also why some could not be judged, and how many patches were cut and are uncut."""
    ndvi_dn = of.numbers["NDVI"]
    uncut_yx = uncut(of.days_d, ndvi_dn, of.shape)
    places = cut_places(of.days_d, ndvi_dn, of.shape)
    found, missing = [], []
    for k, place in enumerate(places):
        try:
            found.append(judged(of, place, placebos(place, uncut_yx, seed=k)))
        except ProbeError as cause:
            missing.append(f"{place.year}: {cause}")
    cut = sum(len(place.cells_k) for place in places)
    return found, missing, {"places": len(places), "cut": cut, "uncut": int(uncut_yx.sum())}


def measure(every: Sequence[Judged], name: str) -> dict[str, object]:
    """Return what is told of the departures of one measure."""
    cut, free = _beyond(every, name)
    boot = Bootstrap(np.arange(len(every)))
    rank, apart = (Interval.of(boot.mean([of(one, name) for one in every])) for of in (Judged.rank, Judged.apart))
    years = sorted({one.place.year for one in every})
    return {
        "cut": cut, "placebo": free, "rank": rank.to_dict(), "apart": apart.to_dict(),
        "by_year": {y: dict(zip(("cut", "placebo"), _beyond([o for o in every if o.place.year == y], name), strict=True)) for y in years},
    }  # fmt: skip


def _beyond(every: Sequence[Judged], name: str) -> tuple[dict[str, float], dict[str, float]]:
    own = [one.departures[name].beyond for one in every]
    others = [p[name].beyond for one in every for p in one.placebos]
    return tuple(exact(sum(rows), len(rows)) | {"count": len(rows)} for rows in (own, others))


def averaged(rows: Sequence[object]) -> object:
    """Return the mean of numbers that lie alike in each row.

    >>> averaged([{"a": 1.0, "b": {"c": 2}}, {"a": 3.0, "b": {"c": 4}}])
    {'a': 2.0, 'b': {'c': 3.0}}
    """
    if isinstance(rows[0], Mapping):
        return {key: averaged([row[key] for row in rows]) for key in rows[0]}
    return float(np.mean(rows))


def by_measure(every: Sequence[Judged]) -> dict[str, object]:
    """Tell every measure; of random directions, the means of their numbers."""
    told = {name: measure(every, name) for name in every[0].departures}
    drawn = [told.pop(name) for name in list(told) if name.startswith(RANDOM)]
    told = {
        name: row | {"index": index(every, name), "agreement": agreement(every, name)} for name, row in told.items()
    }
    return told | ({RANDOM: averaged(drawn)} if drawn else {})


def index(every: Sequence[Judged], name: str) -> dict[str, object]:
    """Return the indices of a measure by way: medians by season, and how they rise from the first to the last."""
    return {way: _index([one.indices.get(name, {}).get(way, {}) for one in every]) for way in WAYS}


def _index(rows: Sequence[Mapping[int, Mapping[str, float]]]) -> dict[str, object]:
    seasons = {}
    for season in SEASONS:
        known = [row[season] for row in rows if season in row]
        if known:
            wide = float(np.median([one["high"] - one["low"] for one in known]))
            seasons[season] = {
                "places": len(known), "median": float(np.median([one["index"] for one in known])), "width": wide,
                "above_0": sum(one["low"] > 0 for one in known), "holds_1": sum(one["low"] <= 1 <= one["high"] for one in known),
            }  # fmt: skip
    rises = [row[max(row)]["index"] - row[min(row)]["index"] for row in rows if len(row) > 1]
    return {"seasons": seasons, "rise": _interval(rises)}


def _interval(values: Sequence[float]) -> dict[str, object]:
    """Return the mean with an interval that redraws places; no interval where they are fewer than five."""
    told: dict[str, object] = {"places": len(values), "value": None, "low": None, "high": None}
    if len(values) < LEAST:
        return told
    return told | Interval.of(Bootstrap(np.arange(len(values))).mean(values)).to_dict()


def agreement(every: Sequence[Judged], name: str) -> dict[str, object]:
    """Return Spearman's correlation with the index of NDVI over places, of the latest season that both have, by way."""
    told = {}
    for way in WAYS:
        both = []
        for one in every:
            mine, ndvi = (one.indices.get(n, {}).get(way, {}) for n in (name, "NDVI"))
            if common := set(mine) & set(ndvi):
                both.append((mine[max(common)]["index"], ndvi[max(common)]["index"]))
        told[way] = {"places": len(both), "value": None, "low": None, "high": None}
        if len(both) >= LEAST:
            mine_n, ndvi_n = np.array(both).T
            told[way] |= Interval.of(Bootstrap(np.arange(len(both))).spearman(mine_n, ndvi_n)).to_dict()
    return told


def example(of: Ground, every: Sequence[Judged]) -> dict[str, object]:
    """Return the largest place with the longest time after, as dates and curves of difficulty and NDVI."""
    one = max(every, key=lambda j: (-j.place.year, len(j.place.cells_k)))
    seen = of.of(one.place.cells_k)
    grid_n = np.arange(seen.days_d[0], seen.days_d[-1] + CURVE_DAYS, CURVE_DAYS)
    parts = {}
    for name in ("difficulty", "NDVI"):
        season = season_of(seen, one.place, name)
        parts[name] = {
            "values": seen.numbers[name].tolist(), "expected": _plain(season.expected(grid_n)),
            "half": _plain(season.half_width(grid_n)), "index": one.indices.get(name, {}),
            "initial": one.departures[name].initial, "band": one.departures[name].half,
        }  # fmt: skip
    before_d, _ = sides(seen, one.place)
    return {
        "patches": len(one.place.cells_k), "year": one.place.year, "event_day": one.place.event_day, "days": seen.days_d.tolist(),
        "fitted": before_d.tolist(), "grid": grid_n.tolist(), "measures": parts,
    }  # fmt: skip


def _plain(values_n: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values_n]


def told(one: Judged) -> dict[str, object]:
    """Return a cut place as plain data."""
    rows = {
        name: {"initial": d.initial, "half": d.half, "rank": one.rank(name), "index": one.indices.get(name, {})}
        for name, d in one.departures.items()
        if name in NAMED
    }
    day = str(np.datetime64(int(one.place.event_day), "D"))
    return {"event": day, "patches": len(one.place.cells_k), "placebos": len(one.placebos), "measures": rows}


def of_reading(
    name: str, images: Sequence[Image], reader: Reader, kit: Kit, cache: Path | None, *, drawn: bool
) -> dict[str, object]:
    """Measure one model on one reading of the forest; a place is kept for the picture where it is `drawn`."""
    click.echo(f"{reader.model.card.name}, {name}: {len(images)} dates", err=True)
    of = ground(images, reader, kit, f"recovery-{name}", cache)
    every, missing, counts = everything(of)
    large = [one for one in every if len(one.place.cells_k) > 1]
    found = {
        "model": reader.model.card.name, "reading": name, "bands": list(reader.bands), "dates": len(images), **counts,
        "judged": len(every), "missing": missing, "measures": by_measure(every),
        "large": {n: measure(large, n) for n in ("difficulty", "NDVI")} if len(large) > 1 else {},
        "each": [told(one) for one in every],
    }  # fmt: skip
    return found | ({"example": example(of, every)} if drawn else {})


@click.command()
@click.option("--imagery", type=click.Path(exists=True, path_type=Path), help="Folder of the whole source, and of the places of the data card.")  # fmt: skip
@click.option("--weights", multiple=True, metavar="MODEL=FOLDER", help="A published model to measure too; repeatable.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder that keeps what the models gave.")
def main(imagery: Path | None, weights: tuple[str, ...], cache: Path | None) -> None:
    torch.set_num_threads(1)
    bands = BAND_SETS["6"]
    readings = {"demo": forest()} if imagery is None else {"cube": recovery_ground.cube(imagery), "demo": forest()}
    kits = [nano_kit(bands, "patches")]
    for name, folder in folders_of(weights).items():
        if imagery is None:
            raise click.UsageError("--weights needs --imagery: the probe of another model is fitted on its places")
        kits.append(other_kit(name, folder, OTHER_BANDS, "patches", imagery, cache))
    first = next(iter(readings))
    found = [of_reading(n, i, *k, cache, drawn=n == first) for k in kits for n, i in readings.items()]
    delta_page.keep("recovery", found)


if __name__ == "__main__":
    main()
